"""Can one see in a map where its tiles meet?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .codec import unit

__all__ = ["Seams", "seam_cosines"]


@dataclass(frozen=True)
class Seams:
    """Mean cosine of neighbouring patches.

    Attributes:
        across: of neighbours in two tiles.
        within: of neighbours in one tile.
        pairs: how many neighbours in two tiles there are.
    """

    across: float
    within: float
    pairs: int

    def __str__(self) -> str:
        return (
            f"seams: mean cosine of neighbours {self.across:.3f} across tile borders ({self.pairs} pairs), "
            f"{self.within:.3f} within tiles"
        )


def seam_cosines(values: Iterable[np.ndarray], owner: Iterable[np.ndarray]) -> Seams:
    """Compares each patch with its right and lower neighbour.

    Args:
        values: a row after the other (columns, D), NaN where there is no data.
        owner: a row after the other (columns,) number of the tile that a patch comes from.
    """
    sums, counts = np.zeros(2), np.zeros(2, dtype=np.int64)  # within, across
    above = above_owner = None
    for row, tiles in zip(values, owner, strict=True):  # row by row: the map may be larger than memory
        current = unit(row)
        pairs = [(current[1:], current[:-1], tiles[1:] != tiles[:-1])]
        if above is not None:
            pairs.append((current, above, tiles != above_owner))
        for left, right, crossing in pairs:
            cosine = (left * right).sum(axis=-1)
            for kind in (0, 1):
                chosen = cosine[(crossing == kind) & ~np.isnan(cosine)]
                sums[kind] += chosen.sum()
                counts[kind] += len(chosen)
        above, above_owner = current, tiles
    within, across = sums / np.maximum(counts, 1)
    return Seams(float(across), float(within), int(counts[1]))
