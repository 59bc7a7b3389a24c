"""A few labels, drawn so that every class keeps its share."""

from __future__ import annotations

import math

import numpy as np

from .dataset import TileDataset

__all__ = ["fraction"]


def fraction(dataset: TileDataset, share: float, seed: int = 0) -> list[int]:
    """Indices (ascending) of a stratified ``share`` of the tiles, the same for the same seed.

    Multi-class: every class gets its share, rounded, and at least one tile. Multi-label: iterative stratification
    (Sechidis et al. 2011), rarest label first. Regression: ten quantile bins of the (first) target.

    Raises:
        ValueError: ``share`` is not in (0, 1], or the data set has no labels.
    """
    if not 0 < share <= 1:
        raise ValueError(f"fraction: share must be in (0, 1], not {share}; 0.1 is 10 % of the labels")
    labels = dataset.labels().numpy()
    if share == 1:
        return list(range(len(dataset)))
    rng = np.random.default_rng(seed)
    if dataset.task == "multilabel":
        return _iterative(labels > 0.5, share, rng)
    if labels.ndim == 3:  # maps
        labels = np.nanmean(labels, axis=(1, 2)) if dataset.task == "regression" else _most_frequent(labels)
    if dataset.task == "regression":
        target = labels.reshape(len(labels), -1)[:, 0]
        edges = np.quantile(target, np.linspace(0, 1, min(10, max(1, round(share * len(target)))) + 1)[1:-1])
        strata = np.searchsorted(edges, target, side="right")
    else:
        strata = labels
    return _per_stratum(strata, share, rng)


def _most_frequent(maps: np.ndarray) -> np.ndarray:
    return np.array([np.bincount(m[m >= 0], minlength=1).argmax() for m in maps])


def _per_stratum(strata: np.ndarray, share: float, rng: np.random.Generator) -> list[int]:
    chosen: list[int] = []
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        chosen.extend(members[: max(1, round(share * len(members)))].tolist())
    return sorted(chosen)


def _iterative(labels: np.ndarray, share: float, rng: np.random.Generator) -> list[int]:
    """Deals the tiles of the rarest remaining label first, to the side that still wants most of that label."""
    tiles = len(labels)
    shares = np.array([share, 1 - share])
    capacity = np.array([max(1.0, share * tiles), (1 - share) * tiles])  # tiles each side still wants
    wanted = shares[:, None] * labels.sum(axis=0)  # (2, K): examples of a label each side still wants
    wanted[0] = np.maximum(wanted[0], labels.any(axis=0))  # a label that exists is in the few labels too
    side = np.full(tiles, -1)
    left = np.ones(tiles, dtype=bool)
    while left.any():
        remaining = labels[left].sum(axis=0)
        if not remaining.any():
            break
        rarest = int(np.where(remaining > 0, remaining, math.inf).argmin())
        for tile in rng.permutation(np.flatnonzero(left & labels[:, rarest])):
            take = max((0, 1), key=lambda s: (wanted[s, rarest], capacity[s]))
            side[tile] = take
            wanted[take, labels[tile]] -= 1
            capacity[take] -= 1
            left[tile] = False
    for tile in rng.permutation(np.flatnonzero(left)):  # tiles without any label
        take = int(capacity[1] > capacity[0])
        side[tile] = take
        capacity[take] -= 1
    return np.flatnonzero(side == 0).tolist()
