"""From a map of labels to one label per tile."""

from __future__ import annotations

import numpy as np

from .description import Labels

__all__ = ["reduce_map"]


def reduce_map(labels: Labels, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One label per tile.

    Args:
        blocks: (N, h, w) the map's values in each tile.

    Returns:
        labels, (N,) int64 for majority, (N, classes) float32 for any, (N, 1) float32 for mean, (N, h, w) for none (-1
        or NaN where not labelled); and (N,) bool, whether the tile has enough labelled pixels.
    """
    unknown = np.isin(blocks, labels.nodata)
    if blocks.dtype.kind == "f":
        unknown |= np.isnan(blocks)
    if labels.classes:
        index = np.full(blocks.shape, -1, dtype=np.int64)
        for k, codes in enumerate(labels.classes.values()):
            index[np.isin(blocks, codes) & ~unknown] = k
        unknown = index < 0
    enough = 1 - unknown.mean(axis=(1, 2)) >= max(labels.min_labelled, 1e-9)
    count = np.maximum((~unknown).sum(axis=(1, 2)), 1)
    if labels.reduction == "mean":
        total = np.where(unknown, 0, blocks).sum(axis=(1, 2), dtype=np.float64)
        return (total / count).astype(np.float32)[:, None], enough
    if labels.reduction == "none":
        return (index if labels.classes else np.where(unknown, np.nan, blocks).astype(np.float32)), enough
    votes = np.stack([(index == k).sum(axis=(1, 2)) for k in range(len(labels.classes))], axis=1)  # (N, classes)
    if labels.reduction == "majority":
        return votes.argmax(axis=1), enough
    return (votes / count[:, None] > labels.min_share).astype(np.float32), enough
