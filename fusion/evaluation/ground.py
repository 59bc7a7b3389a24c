"""Which tiles lie together: blocks of ground, in whole ones of which a probe is tried."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fusion.data import TileDataset

__all__ = ["cut", "ground_blocks"]

_FEWEST = 3  # blocks, from which on they are taken as they are
_HALVINGS = 2  # of a scene: few and large parts, since parts that touch are alike, too
_LEAST = 2  # tiles of a part


def ground_blocks(dataset: TileDataset) -> np.ndarray | None:
    """(N,) name of the block of ground of each tile, for folds of whole blocks.

    They are those of :meth:`~fusion.data.TileDataset.blocks`. Where these are none or one or two (a single scene), the
    ground of each is cut into four parts by the place of the tiles, see :func:`cut`.

    Returns:
        None where neither two blocks nor places are known.
    """
    blocks = dataset.blocks()
    if blocks is not None and len(np.unique(blocks)) >= _FEWEST:
        return blocks
    found = _positions(dataset)
    if found is not None:
        scene, positions = found
        if blocks is not None:
            scene = [f"{block}/{one}" for block, one in zip(blocks, scene, strict=True)]
        parts = cut(positions, scene)
        if len(np.unique(parts)) > 1:
            return parts
    return blocks if blocks is not None and len(np.unique(blocks)) > 1 else None


def cut(positions: np.ndarray, scene: Sequence[str]) -> np.ndarray:
    """Cuts the ground of every scene in halves of as many tiles, and these again, across the longer side each time.

    Args:
        positions: (N, 2) of each tile, in units that are equally long in both directions.
        scene: (N,) tiles of different scenes are never in one part.

    Returns:
        (N,) name of the part of each tile; fewer than four of a scene where a part would have less than two tiles.
    """
    names, of = np.unique(np.asarray(scene), return_inverse=True)
    found = np.empty(len(of), dtype=object)
    for number, name in enumerate(names):
        pieces = [np.flatnonzero(of == number)]
        for _ in range(_HALVINGS):
            pieces = [half for piece in pieces for half in _halves(positions, piece)]
        for part, members in enumerate(pieces):
            found[members] = f"{name}-{part}"
    return found.astype(str)


def _halves(positions: np.ndarray, members: np.ndarray) -> list[np.ndarray]:
    """Both halves of some tiles, or these alone where they cannot be halved."""
    own = positions[members]
    for axis in np.argsort(-np.ptp(own, axis=0), kind="stable"):
        values = np.unique(own[:, axis])
        if len(values) < 2:
            continue
        # A line between two rows or columns of tiles, so that none lies on both sides.
        below = np.searchsorted(np.sort(own[:, axis]), values[1:])
        first = own[:, axis] < values[1:][np.abs(below - len(own) / 2).argmin()]
        if min(first.sum(), (~first).sum()) >= _LEAST:
            return [members[first], members[~first]]
    return [members]


def _positions(dataset: TileDataset) -> tuple[list[str], np.ndarray] | None:
    """Of each tile what it lies on and (N, 2) where, or None where this is not known of all."""
    if (ground := dataset.ground()) is not None:
        return [name for name, _, _ in ground], np.array([[top, left] for _, top, left in ground], dtype=np.float64)
    places = dataset.places()
    known = [place for place in places if place is not None]
    if len(known) < len(places):
        return None
    return [place.crs for place in known], np.array([[p.transform[5], p.transform[2]] for p in known])
