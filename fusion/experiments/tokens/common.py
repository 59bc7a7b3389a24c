"""What the experiments with token fusion share: true and generated profiles, simple baselines, scores of both.

A profile is the series of a place on the model's calendar, (N, C, T) float32 for N tiles, C variables and T dates, NaN
where nothing was observed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...data import TileBatch, TileDataset
from ...evaluation import Table
from ...training.loading import evaluation_loader

__all__ = [
    "batches",
    "described",
    "expected_profiles",
    "mean_profile",
    "profile_scores",
    "profiles",
    "ridge_profiles",
    "sampled_profiles",
    "score_table",
    "tile_statistics",
]

BATCH = 128  # tiles at once, without gradients


def batches(model: nn.Module, dataset: TileDataset, size: int = BATCH) -> Iterator[TileBatch]:
    """The tiles in order with the modalities that the model knows, on its device."""
    known = {m.name for m in model.config.modalities}
    dataset = dataset.with_modalities([m.name for m in dataset.modalities if m.name in known])
    device = next(model.parameters()).device
    for batch in evaluation_loader(dataset, size):
        yield batch.to(device)


def profiles(model: nn.Module, dataset: TileDataset, name: str) -> np.ndarray:
    """(N, C, T) observed series ``name`` on the model's calendar, before any quantization."""
    return _joined(model.tokenizer.values(batch, name) for batch in batches(model, dataset))


@torch.inference_mode()
def expected_profiles(model: nn.Module, dataset: TileDataset, name: str, given: Sequence[str]) -> np.ndarray:
    """(N, C, T) expectation of the series ``name`` in one step, from the modalities ``given`` alone."""
    from ...token_fusion.generate import expect

    model.eval()
    return _joined(expect(model, batch, name, given=list(given)) for batch in batches(model, dataset))


@torch.inference_mode()
def sampled_profiles(
    model: nn.Module, dataset: TileDataset, name: str, given: Sequence[str], samples: int, seed: int = 0, **how: Any
) -> np.ndarray:
    """(S, N, C, T) generated series ``name``; ``how`` goes to :func:`fusion.token_fusion.generate.generate`."""
    from ...token_fusion.generate import generate

    model.eval()
    drawn = []
    for number, batch in enumerate(batches(model, dataset)):
        made = generate(model, batch, [name], given=list(given), samples=samples, seed=seed + number, **how)
        drawn.append(made.values[name].cpu().numpy())
    return np.concatenate(drawn, axis=1)


def tile_statistics(dataset: TileDataset, names: Sequence[str], *, deviation: bool = False) -> np.ndarray:
    """(N, D) means of every band of some images over the tile, and their standard deviations; NaN where missing."""
    rows = []
    part = dataset.with_modalities(list(names))
    for batch in evaluation_loader(part, BATCH):
        columns = []
        for name in names:
            size = sum(m.channels for m in part.modalities if m.name == name)
            values = batch.values.get(name, torch.zeros(len(batch), size, 1, 1)).double().flatten(2)  # (B, C, n)
            seen = batch.valid_tiles(name) if name in batch.valid else torch.zeros(len(batch), dtype=torch.bool)
            parts = [values.mean(2), values.std(2, correction=0)] if deviation else [values.mean(2)]
            columns += [part.masked_fill(~seen[:, None], torch.nan) for part in parts]
        rows.append(torch.cat(columns, dim=1).numpy())
    return np.concatenate(rows)


def mean_profile(train: np.ndarray, tiles: int) -> np.ndarray:
    """(tiles, C, T): the mean of the training profiles, for everybody."""
    return np.broadcast_to(np.nanmean(train, axis=0), (tiles, *train.shape[1:]))


def ridge_profiles(x: np.ndarray, profile: np.ndarray, unseen: np.ndarray) -> np.ndarray:
    """(M, C, T) for ``unseen`` (M, D): a ridge regression of every date on ``x`` (N, D), its strength chosen by
    leave-one-out for each date alone. Missing inputs take the training mean; so do missing dates of a profile."""
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    target = profile.reshape(len(profile), -1).astype(np.float64)
    target = np.where(np.isnan(target), np.nanmean(target, axis=0), target)
    ridge = RidgeCV(np.logspace(-3, 4, 15), alpha_per_target=True)
    fitted = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), ridge).fit(x, target)
    return fitted.predict(unseen).reshape(len(unseen), *profile.shape[1:])


def profile_scores(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """Errors over all observed tiles, variables and dates, in the unit of the series.

    ``r2`` is relative to the mean of all values; ``r2_places`` to the mean profile of the scored tiles, so that the
    season, which is the same everywhere, earns nothing.
    """
    seen = np.isfinite(truth)
    error = np.where(seen, guess - truth, 0.0).astype(np.float64)
    square = (error**2).sum()
    place = np.where(seen, truth - np.nanmean(truth, axis=0), 0.0).astype(np.float64)
    scores = {
        "rmse": float(np.sqrt(square / seen.sum())),
        "mae": float(np.abs(error).sum() / seen.sum()),
        "bias": float(error.sum() / seen.sum()),
        "r2": float(1 - square / ((truth[seen] - truth[seen].mean()) ** 2).sum()),
    }
    if (place**2).sum() > 0:
        scores["r2_places"] = float(1 - square / (place**2).sum())
    return scores


def score_table(rows: Mapping[str, Mapping[str, float]], caption: str, unit: str = "") -> Table:
    """Scores of several methods by name, best in bold."""
    heads = {"rmse": f"RMSE ({unit})" if unit else "RMSE", "mae": "MAE", "bias": "bias", "r2": "R²"}
    heads |= {"r2_places": "R² between places", "coverage": "share inside the band"}
    shown = [key for key in heads if any(key in row for row in rows.values())]
    cells = [[name, *(row.get(key, float("nan")) for key in shown)] for name, row in rows.items()]
    names = [heads[key] for key in shown]
    best = [heads[key] for key in shown if key.startswith("r2")]
    return Table(["", *names], cells, caption, best=best, lowest=[heads["rmse"], heads["mae"]])


def described(parts: Mapping[str, TileDataset]) -> str:
    """Sizes of the parts in words."""
    return ", ".join(f"{len(part)} {role}" for role, part in parts.items() if role != "all")


def _joined(parts: Iterator[Tensor]) -> np.ndarray:
    return np.concatenate([part.float().cpu().numpy() for part in parts])
