"""How evenly the labels of tiles are shared out among splits."""

from __future__ import annotations

import numpy as np

from ..blocks import SHARES, block_splits

__all__ = ["FAIR", "contents", "divided", "even_deal"]

FAIR = 0.5  # of its share of the tiles, that the split which is worst off has at least

_DEALS = 64  # of which the most even is taken
_PARTS = 4  # of the range of a quantity
_COMMON = 3  # blocks: a class of fewer cannot be in every split


def contents(labels: np.ndarray, classes: int, ignored: int = -1) -> np.ndarray:
    """(N, K) how much of each class is on each tile: pixels of maps, else 1; of a quantity, in which quarter of the
    tiles' means it lies.

    Args:
        labels: (N,) classes, (N, K) several of them, (N, H, W) maps of classes; or of a quantity.
        classes: K; 0 of a quantity.
    """
    if not classes:
        with np.errstate(invalid="ignore"):
            mean = np.array([np.nanmean(label) if np.isfinite(label).any() else 0.0 for label in labels])
        part = np.searchsorted(np.quantile(mean, np.arange(1, _PARTS) / _PARTS), mean)
        return np.eye(_PARTS)[part]
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels.astype(np.float64)
    flat = labels.reshape(len(labels), -1)
    return np.stack([((flat == k) & (flat != ignored)).sum(axis=1) for k in range(classes)], axis=1).astype(np.float64)


def even_deal(of_tile: np.ndarray, amounts: np.ndarray, touching: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Blocks dealt to the splits: of several deals that in which every split has its share of tiles, then as few
    classes as can be are missing in a split, then the shares of the classes are most alike.

    Args:
        of_tile: (N,) block of each tile.
        amounts: (N, K), of :func:`contents`.
        touching: (2, pairs) tile and feature that share ground, see :func:`.dealing.deal`.
    """
    blocks = np.zeros((int(of_tile.max()) + 1, amounts.shape[1]))
    np.add.at(blocks, of_tile, amounts)
    common = (blocks > 0).sum(axis=0) >= _COMMON
    overall = amounts.sum(axis=0) / max(1.0, amounts.sum())
    best: dict[str, np.ndarray] = {}
    lowest = (np.inf, np.inf, np.inf)
    for number in range(_DEALS):
        ground = np.column_stack([of_tile, np.zeros_like(of_tile)])
        dealt = block_splits(ground, block=1, shares=SHARES, seed=seed + 7919 * number)
        owner = np.zeros(len(of_tile), dtype=int)
        for split, members in enumerate(dealt.values()):
            owner[members] = split
        kept = ~divided(owner, touching)
        sizes = np.bincount(owner[kept], minlength=len(SHARES))
        totals = np.stack([amounts[kept & (owner == split)].sum(axis=0) for split in range(len(SHARES))])
        shares = totals / np.maximum(totals.sum(axis=1, keepdims=True), 1e-12)
        fair = float((sizes / (np.array(list(SHARES.values())) * max(1, kept.sum()))).min())
        missing = int((totals[:, common] == 0).sum())
        uneven = float(np.abs(shares - overall).sum())
        rank = (round(max(0.0, FAIR - fair), 6), missing, round(uneven, 6))
        if rank < lowest:
            best, lowest = dealt, rank
    return best


def divided(owner: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """(N,) bool, tiles that a feature touches which touches more tiles of another split."""
    tiles, features = touching
    votes = np.zeros((int(features.max(initial=-1)) + 1, len(SHARES)), dtype=np.int64)
    np.add.at(votes, (features, owner[tiles]), 1)
    apart = np.zeros(len(owner), dtype=bool)
    apart[tiles[votes.argmax(axis=1)[features] != owner[tiles]]] = True
    return apart
