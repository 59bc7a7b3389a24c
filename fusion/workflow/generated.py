"""What was generated of tiles: gathered from the model, scored, drawn, and written to files."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Modality, TileDataset
from ..data.spacing import evenly_spaced
from ..evaluation import Picture
from ..evaluation.generation import BAND, coverage
from ..evaluation.model_profiles import profiles
from ..evaluation.profile_baselines import mean_profile
from ..evaluation.profile_scores import profile_scores
from ..evaluation.profiles import image_plot, profile_plot
from ..settings import renamed
from ..token_fusion import TokenFusion
from ..token_fusion.counterfactual import calendar
from ..token_fusion.generate import expect, generate
from ..token_fusion.in_memory import model_batches

__all__ = ["Values", "draw", "gather", "save", "score"]

SHOWN = 6  # places in a picture
BATCH = 32  # tiles at once


@dataclass(frozen=True)
class Values:
    """Of one target: ``samples`` (S, N, ...), ``expected`` and ``observed`` (N, ...) in its unit, NaN where missing;
    ``days`` (T,) of a series."""

    samples: np.ndarray
    expected: np.ndarray
    observed: np.ndarray
    days: np.ndarray | None

    @property
    def median(self) -> np.ndarray:
        return np.median(self.samples, axis=0)

    def band(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = np.quantile(self.samples, BAND, axis=0)
        return low, high


@renamed(given="conditioning")
def gather(
    model: TokenFusion,
    dataset: TileDataset,
    targets: Sequence[str],
    conditioning: Sequence[str] | None,
    samples: int,
    how: Mapping[str, Any],
) -> dict[str, Values]:
    """By target, what the model generates of the tiles; ``how`` are further arguments of ``generate``."""
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    expected: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    observed: dict[str, list[np.ndarray]] = {name: [] for name in targets}
    sources = [n for n in model.tokenizer.layout.names if n not in targets] if conditioning is None else conditioning
    for batch in model_batches(model, dataset, BATCH):
        made = generate(model, batch, targets, conditioning=sources, samples=samples, **how)
        for name in targets:
            drawn[name].append(made.values[name].cpu().numpy())
            expected[name].append(expect(model, batch, name, conditioning=sources).cpu().numpy())
            known = model.tokenizer.values(batch, name) if name in batch.values else None
            observed[name].append(np.full_like(expected[name][-1], np.nan) if known is None else known.cpu().numpy())
    return {
        name: Values(
            np.concatenate(drawn[name], axis=1),
            np.concatenate(expected[name]),
            np.concatenate(observed[name]),
            calendar(model, name) if model.config.modality(name).kind == "series" else None,
        )
        for name in targets
    }


def score(model: TokenFusion, target: str, values: Values, train: TileDataset | None) -> dict[str, dict[str, float]]:
    """Errors of what was generated, and of the mean of the training tiles; empty where nothing was observed."""
    if not np.isfinite(values.observed).any():
        return {}
    scores = {name: profile_scores(values.observed, getattr(values, name)) for name in ("expected", "median")}
    scores["median"]["coverage"] = coverage(values.observed, values.samples)
    if train is not None and target in [m.name for m in train.modalities]:
        mean = mean_profile(profiles(model, train.with_modalities([target]), target), len(values.observed))
        scores["mean_profile"] = profile_scores(values.observed, mean)
    return {"expectation": scores.pop("expected")} | scores


def draw(modality: Modality, names: Sequence[str], values: Values, conditions: str) -> list[Picture]:
    """Of some places and at most three bands."""
    pick = evenly_spaced(len(names), SHOWN)
    labels, seen = [names[i] for i in pick], bool(np.isfinite(values.observed).any())
    if values.samples.ndim == 3:  # one number a band: nothing to draw that the files do not tell
        return []
    drawn = []
    for c, band in enumerate(modality.bands[:3]):
        note = f"{modality.name.capitalize()}, band {band}, of {len(pick)} tiles. {conditions}"
        sample, truth = values.samples[:, pick, c], values.observed[pick, c] if seen else None
        if values.days is not None:
            drawn.append(
                profile_plot(
                    values.days,
                    truth,
                    sample,
                    names=labels,
                    unit=modality.unit,
                    expected=values.expected[pick, c],
                    band=BAND,
                    conditions=note,
                )
            )
            continue
        rows = {"observed": truth} if truth is not None else {}
        rows |= {"median": np.median(sample, axis=0), "expectation": values.expected[pick, c], "spread": sample.std(0)}
        drawn.append(image_plot(rows, names=labels, unit=modality.unit, conditions=note))
    return drawn


def save(folder: Path, modality: Modality, names: Sequence[str], values: Values) -> str:
    """``NAME.npz``, and of a series ``NAME.csv``; what was written."""
    low, high = values.band()
    arrays: dict[str, Any] = {"samples": values.samples, "median": values.median, "low": low, "high": high}
    arrays |= {"expected": values.expected, "observed": values.observed}
    arrays |= {"names": np.array(names), "bands": np.array(modality.bands), "unit": np.array(modality.unit)}
    if values.days is not None:
        arrays["days"] = values.days
    folder.mkdir(parents=True, exist_ok=True)
    written = f"{modality.name}.npz"
    np.savez_compressed(folder / written, **arrays)
    if values.days is None:
        return written
    with open(folder / f"{modality.name}.csv", "w", newline="") as file:
        table = csv.writer(file)
        columns = ("median", "low", "high", "expected", "observed")
        table.writerow(["tile", "band", "day", *(f"{c} ({modality.unit})" if modality.unit else c for c in columns)])
        for (i, c, t), _ in np.ndenumerate(values.expected):
            numbers = [arrays[column][i, c, t] for column in columns]
            table.writerow(
                [
                    names[i],
                    modality.bands[c],
                    f"{values.days[t]:g}",
                    *("" if np.isnan(v) else f"{v:.6g}" for v in numbers),
                ]
            )
    return f"{written}, {modality.name}.csv"
