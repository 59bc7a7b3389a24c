"""A series generated from other modalities, beside what simple methods make of the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ...data import TileDataset
from ...evaluation import Picture
from ...evaluation.plots import COLOURS, panels, picture
from .common import expected_profiles, mean_profile, profile_scores, profiles, ridge_profiles, sampled_profiles

__all__ = ["BAND", "Generated", "calendar", "compare", "forest_profiles", "inputs", "pictures"]

BAND = (0.1, 0.9)  # quantiles of the samples that make the uncertainty band


@dataclass(frozen=True)
class Generated:
    """One series of N tiles by several methods.

    Attributes:
        truth: (N, C, T), NaN where not observed.
        guesses: (N, C, T) by method: ``model`` (expectation in one step), ``samples`` (median of the generated ones),
            ``mean_profile``, ``ridge``, ``forest``.
        drawn: (S, N, C, T) generated.
        days: (T,) of the calendar.
    """

    truth: np.ndarray
    guesses: dict[str, np.ndarray]
    drawn: np.ndarray
    days: np.ndarray

    def scores(self) -> dict[str, dict[str, float]]:
        """Errors by method, and for the samples the share of true values in their 80 % band."""
        found = {name: profile_scores(self.truth, guess) for name, guess in self.guesses.items()}
        low, high = np.quantile(self.drawn, BAND, axis=0)
        seen = np.isfinite(self.truth)
        found["samples"]["coverage"] = float(((self.truth >= low) & (self.truth <= high))[seen].mean())
        return found


def compare(
    model: nn.Module,
    train: TileDataset,
    test: TileDataset,
    target: str,
    given: Sequence[str],
    *,
    samples: int = 8,
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    baselines: bool = True,
) -> Generated:
    """``target`` of the tiles ``test`` from their modalities ``given``, by a model that was trained on ``train``.

    The baselines see the same inputs before tokenization, each value of each date, and learn from the same tiles.

    Args:
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    known, truth = profiles(model, train, target), profiles(model, test, target)
    drawn = sampled_profiles(model, test, target, given, samples, seed, **(how or {}))
    guesses = {"model": expected_profiles(model, test, target, given), "samples": np.median(drawn, axis=0)}
    if baselines:
        x, unseen = inputs(model, train, given), inputs(model, test, given)
        methods = {
            "mean_profile": lambda y: mean_profile(y, len(truth)),
            "ridge": lambda y: ridge_profiles(x, y, unseen),
            "forest": lambda y: forest_profiles(x, y, unseen, seed),
        }
        dates = np.isfinite(known).any(0)  # of others nobody knows anything
        for name, method in methods.items():
            guesses[name] = np.full(truth.shape, np.nan)
            guesses[name][:, dates] = method(known[:, None, dates])[:, 0]
    return Generated(truth, guesses, drawn, calendar(model, target))


def calendar(model: nn.Module, name: str) -> np.ndarray:
    """(T,) days at the middle of the intervals of a series."""
    settings = model.config.tokenizer(name)
    return settings["start"] + settings["step"] * (np.arange(settings["length"]) + 0.5)


def pictures(
    found: Generated, name: str, unit: str, conditions: str, tiles: Sequence[str], most: int = 6
) -> list[Picture]:
    """Truth and samples at some of the tiles, evenly spaced, and the error of every method by date."""
    from ...evaluation.profiles import profile_plot

    pick = np.unique(np.linspace(0, len(tiles) - 1, min(most, len(tiles))).round().astype(int))
    what = f"{name.capitalize()} of {len(pick)} of the tiles: observed, and the median and 80 % band of samples."
    shown = profile_plot(
        found.days,
        found.truth[pick, 0],
        found.drawn[:, pick, 0],
        names=[tiles[i] for i in pick],
        unit=unit,
        conditions=f"{what} {conditions}",
    )
    figure, (panel,) = panels(1, width=7, height=3.2)
    for colour, (method, guess) in zip(COLOURS, found.guesses.items(), strict=False):
        error = np.sqrt(np.nanmean((guess - found.truth) ** 2, axis=(0, 1)))
        panel.plot(found.days, error, color=colour, label=method)
    panel.set(xlabel="day", ylabel=f"RMSE ({unit})", ylim=(0, None))
    panel.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    return [shown, picture(figure, f"Error by date. {conditions}")]


def inputs(model: nn.Module, dataset: TileDataset, names: Sequence[str]) -> np.ndarray:
    """(N, D) what the model's tokens of the modalities ``names`` stand for, before tokenization; NaN where missing."""
    found = [profiles(model, dataset, name) for name in names]
    return np.concatenate([values.reshape(len(values), -1) for values in found], axis=1)


def forest_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray, seed: int = 0) -> np.ndarray:
    """(M, C, T) for ``unseen`` (M, D): a random forest of all dates at once on ``x`` (N, D), with training means for
    what is missing."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline

    target = profile.reshape(len(profile), -1)
    target = np.where(np.isnan(target), np.nanmean(target, axis=0), target)
    forest = RandomForestRegressor(200, min_samples_leaf=2, max_features=1 / 3, random_state=seed)
    fitted = make_pipeline(SimpleImputer(keep_empty_features=True), forest).fit(x, target)
    return fitted.predict(unseen).reshape(len(unseen), *profile.shape[1:])
