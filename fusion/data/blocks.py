"""Spatial splits: whole blocks of ground, because neighbours are alike and random pixels leak."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["block_splits"]

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def block_splits(
    positions: np.ndarray, *, block: int = 8, shares: Mapping[str, float] = SHARES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Deals blocks of ``block`` x ``block`` tiles to the splits, at random, until each has its share of the tiles.

    Args:
        positions: (N, 2) row and column of each tile, in tiles.
        shares: of each split; they sum to 1.

    Returns:
        tile numbers by split, ascending.

    Raises:
        ValueError: fewer blocks than splits.
    """
    _, block_of = np.unique(np.asarray(positions) // block, axis=0, return_inverse=True)
    block_of = block_of.ravel()
    sizes = np.bincount(block_of)
    if len(sizes) < len(shares):
        raise ValueError(
            f"block_splits: {len(sizes)} blocks of {block} x {block} tiles cannot make {len(shares)} splits; "
            "use smaller blocks or more tiles"
        )
    wanted = np.array(list(shares.values())) * len(block_of)
    order = np.random.default_rng(seed).permutation(len(sizes))
    owner = np.empty(len(sizes), dtype=int)
    for rank, number in enumerate(order):  # the first blocks make sure that no split is empty
        owner[number] = rank if rank < len(wanted) else wanted.argmax()
        wanted[owner[number]] -= sizes[number]
    return {name: np.flatnonzero(owner[block_of] == k) for k, name in enumerate(shares)}
