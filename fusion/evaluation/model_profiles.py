"""Profiles of places: what was observed of a series on a model's calendar, and what the model makes of it.

A profile is (N, C, T) float32 for N tiles, C variables and T dates, NaN where nothing was observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusion.settings import renamed

from ..data import TileDataset
from ..token_fusion import TokenFusion
from ..token_fusion.generate import expect, generate
from ..token_fusion.in_memory import BATCH, model_batches
from ..training.loading import evaluation_loader

__all__ = ["expected_profiles", "inputs", "profiles", "sampled_profiles", "tile_statistics"]


def profiles(model: TokenFusion, dataset: TileDataset, name: str) -> np.ndarray:
    """(N, C, T) observed series ``name`` on the model's calendar, before any quantization."""
    return _joined(model.tokenizer.values(batch, name) for batch in model_batches(model, dataset))


@torch.inference_mode()
@renamed(given="conditioning")
def expected_profiles(model: TokenFusion, dataset: TileDataset, name: str, conditioning: Sequence[str]) -> np.ndarray:
    """(N, C, T) expectation of the series ``name`` in one step, from the modalities ``conditioning`` alone."""
    model.eval()
    return _joined(
        expect(model, batch, name, conditioning=list(conditioning)) for batch in model_batches(model, dataset)
    )


@torch.inference_mode()
@renamed(given="conditioning")
def sampled_profiles(
    model: TokenFusion,
    dataset: TileDataset,
    name: str,
    conditioning: Sequence[str],
    samples: int,
    seed: int = 0,
    **how: Any,
) -> np.ndarray:
    """(S, N, C, T) generated series ``name``; ``how`` goes to :func:`fusion.token_fusion.generate.generate`."""
    model.eval()
    drawn = []
    for number, batch in enumerate(model_batches(model, dataset)):
        made = generate(
            model, batch, [name], conditioning=list(conditioning), samples=samples, seed=seed + number, **how
        )
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


def inputs(model: TokenFusion, dataset: TileDataset, names: Sequence[str]) -> np.ndarray:
    """(N, D) what the model's tokens of the modalities ``names`` stand for, before tokenization; NaN where missing."""
    found = [profiles(model, dataset, name) for name in names]
    return np.concatenate([values.reshape(len(values), -1) for values in found], axis=1)


def _joined(parts: Iterable[Tensor]) -> np.ndarray:
    return np.concatenate([part.float().cpu().numpy() for part in parts])
