"""A few labels, drawn so that every class keeps its share."""

from __future__ import annotations

import math

import numpy as np

from .dataset import TileDataset

__all__ = ["fraction", "strata_of"]


def fraction(dataset: TileDataset, share: float, seed: int = 0) -> list[int]:
    """Indices (ascending) of a stratified ``share`` of the tiles, the same for the same seed.

    Multi-class: every class gets its share, rounded, and at least one tile. Multi-label: iterative stratification
    (Sechidis et al. 2011), rarest label first. Regression: ten quantile bins of the (first) target.

    Raises:
        ValueError: ``share`` is not in (0, 1], or the data set has no labels.
    """
    if not 0 < share <= 1:
        raise ValueError(f"fraction: share must be in (0, 1], not {share}; 0.1 is 10 % of the labels")
    if share == 1 and dataset.task is not None:
        return list(range(len(dataset)))
    rng = np.random.default_rng(seed)
    if dataset.task == "multilabel":
        return _iterative(dataset.labels().numpy() > 0.5, share, rng)
    return _per_stratum(strata_of(dataset, round(share * len(dataset))), share, rng)


def strata_of(dataset: TileDataset, bins: int = 10) -> np.ndarray:
    """(N,) what tiles are alike by: their class, the most frequent one of a map, the rarest of several, or the quantile
    bin of the (first) target, of at most ten and ``bins``.

    Raises:
        ValueError: the data set has no labels.
    """
    labels = dataset.labels().numpy()
    if dataset.task == "multilabel":
        frequency = (labels > 0.5).sum(0)
        rarity = np.where(labels > 0.5, 1 / np.maximum(frequency, 1), 0)  # (N, K)
        return np.where(rarity.any(1), rarity.argmax(1), -1)
    if labels.ndim == 3:  # maps
        labels = _mean_of_maps(labels) if dataset.task == "regression" else _most_frequent(labels, dataset)
    if dataset.task != "regression":
        return np.asarray(labels)
    target = labels.reshape(len(labels), -1)[:, 0]
    edges = np.quantile(target, np.linspace(0, 1, min(10, max(1, bins)) + 1)[1:-1])
    return np.searchsorted(edges, target, side="right")


def _most_frequent(maps: np.ndarray, dataset: TileDataset) -> np.ndarray:
    """(N,) the class of most labelled pixels of each map, -1 where there is none."""
    labelled = maps != dataset.ignore_index
    votes = np.stack([((maps == k) & labelled).sum(axis=(1, 2)) for k in range(len(dataset.classes))], axis=1)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), -1)


def _mean_of_maps(maps: np.ndarray) -> np.ndarray:
    """(N,) mean of the labelled pixels of each map; the mean of all maps where there is none."""
    labelled = ~np.isnan(maps)
    count = labelled.sum(axis=(1, 2))
    mean = np.where(labelled, maps, 0).sum(axis=(1, 2)) / np.maximum(count, 1)
    return np.where(count > 0, mean, mean[count > 0].mean() if (count > 0).any() else 0.0)


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
