"""A series generated from other modalities, beside what simple methods make of the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusion.settings import renamed

from ..data import TileDataset
from ..data.spacing import evenly_spaced
from ..token_fusion import TokenFusion
from ..token_fusion.counterfactual import calendar
from .model_profiles import expected_profiles, inputs, profiles, sampled_profiles
from .plots import COLOURS, panels, picture
from .profile_baselines import forest_profiles, mean_profile, ridge_profiles
from .profile_scores import profile_scores
from .profiles import profile_plot
from .report import Picture

__all__ = ["BAND", "Generated", "compare", "coverage", "error_by_date", "pictures"]

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
        found["samples"]["coverage"] = coverage(self.truth, self.drawn)
        return found


def coverage(truth: np.ndarray, samples: np.ndarray) -> float:
    """Share of the observed values (N, ...) that lie in the :data:`BAND` of samples (S, N, ...)."""
    low, high = np.quantile(samples, BAND, axis=0)
    return float(((truth >= low) & (truth <= high))[np.isfinite(truth)].mean())


@renamed(given="conditioning")
def compare(
    model: TokenFusion,
    train: TileDataset,
    test: TileDataset,
    target: str,
    conditioning: Sequence[str],
    *,
    samples: int = 8,
    seed: int = 0,
    how: Mapping[str, Any] | None = None,
    baselines: bool = True,
) -> Generated:
    """``target`` of the tiles ``test`` from the modalities ``conditioning``, by a model trained on ``train``.

    The baselines see the same inputs before tokenization, each value of each date, and learn from the same tiles.

    Args:
        how: arguments of :func:`fusion.token_fusion.generate.generate`.
    """
    known, truth = profiles(model, train, target), profiles(model, test, target)
    drawn = sampled_profiles(model, test, target, conditioning, samples, seed, **(how or {}))
    guesses = {"model": expected_profiles(model, test, target, conditioning), "samples": np.median(drawn, axis=0)}
    if baselines:
        x, unseen = inputs(model, train, conditioning), inputs(model, test, conditioning)
        methods: dict[str, Callable[[np.ndarray], np.ndarray]] = {
            "mean_profile": lambda y: mean_profile(y, len(truth)),
            "ridge": lambda y: ridge_profiles(x, y, unseen),
            "forest": lambda y: forest_profiles(x, y, unseen, seed),
        }
        dates = np.isfinite(known).any(0)  # of others nothing is known
        for name, method in methods.items():
            guesses[name] = np.full(truth.shape, np.nan)
            guesses[name][:, dates] = method(known[:, None, dates])[:, 0]
    return Generated(truth, guesses, drawn, calendar(model, target))


def pictures(
    found: Generated, name: str, unit: str, conditions: str, tiles: Sequence[str], most: int = 6
) -> list[Picture]:
    """Truth and samples at some of the tiles, evenly spaced, and the error of every method by date."""
    pick = evenly_spaced(len(tiles), most)
    what = f"{name.capitalize()} of {len(pick)} of the tiles: observed, and the median and 80 % band of samples."
    shown = profile_plot(
        found.days,
        found.truth[pick, 0],
        found.drawn[:, pick, 0],
        names=[tiles[i] for i in pick],
        unit=unit,
        conditions=f"{what} {conditions}",
    )
    return [shown, error_by_date(found.days, found.truth, found.guesses, unit, conditions)]


def error_by_date(
    days: np.ndarray, truth: np.ndarray, guesses: Mapping[str, np.ndarray], unit: str, conditions: str
) -> Picture:
    """RMSE of every date, one line a method: of profiles (N, C, T) on ``days`` (T,)."""
    figure, (panel,) = panels(1, width=7, height=3.2)
    for colour, (method, guess) in zip(COLOURS, guesses.items(), strict=False):
        error = np.sqrt(np.nanmean((guess - truth) ** 2, axis=(0, 1)))
        panel.plot(days, error, color=colour, label=method)
    panel.set(xlabel="day", ylabel=f"RMSE ({unit})", ylim=(0, None))
    panel.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    return picture(figure, f"Error by date. {conditions}")
