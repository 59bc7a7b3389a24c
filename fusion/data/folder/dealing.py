"""Splits for labelled tiles of a description that names none: blocks of ground, dealt at random."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ..blocks import SHARES
from .balance import FAIR, divided, even_deal
from .labels import Labelled
from .scene import Scene
from .tiling import Corners

__all__ = ["deal"]

_BLOCKS = (8, 4, 2, 1)  # tiles a side, the largest that gives enough of them
_MANY, _ENOUGH = 40, 15  # blocks: eight for the smallest split, as intervals of scores want five; or at least three


def deal(
    scenes: Sequence[Scene],
    tiles: Corners,
    side: float,
    found: Labelled,
    seed: int,
) -> tuple[dict[str, np.ndarray], str, np.ndarray | None]:
    """Numbers of tiles by split, how they were dealt, in a sentence, and the block of each tile, (N,), None where
    nothing is dealt.

    A polygon is in one split: blocks that one touches are one block. Where polygons lie side by side this would leave
    too few blocks, or one that holds nearly all tiles; they are then dealt singly, and a polygon's tiles of all splits
    but the one with most of them are in none. Tiles that share ground with a tile of another split are in none either.
    Blocks count from the first scene of each CRS: scenes of one place share them.

    Args:
        tiles: those with labels.
        side: of a tile in metres.
        found: their labels; of several deals the one in which classes are most even is taken.
    """
    touching, amounts = found.touching, found.amounts
    place, positions = _positions(scenes, tiles, side)
    single = {block: _blocks(place, positions, block) for block in _BLOCKS}
    joined = {block: _joined(of_tile, touching) for block, of_tile in single.items()}
    few = dict(reversed(joined.items()))  # the smallest, of which there are most
    best, fairest = None, 0.0
    tiers = [(blocks_of, least) for least in (_MANY, _ENOUGH) for blocks_of in (joined, single)]
    for blocks_of, least in [*tiers, (few, len(SHARES))]:
        for block, of_tile in blocks_of.items():
            blocks = int(of_tile.max()) + 1
            if blocks < least or fairest >= FAIR:
                continue
            if least >= _ENOUGH and np.bincount(of_tile).max() > 0.8 * len(tiles):  # 0.1 each for two are not left
                continue
            dealt = even_deal(of_tile, amounts, touching, seed)
            owner = np.zeros(len(tiles), dtype=int)
            for number, members in enumerate(dealt.values()):
                owner[members] = number
            left_out = _astride(place, positions, owner), divided(owner, touching)
            splits = {name: members[~(left_out[0] | left_out[1])[members]] for name, members in dealt.items()}
            kept = max(1, sum(map(len, splits.values())))
            fair = min(len(members) / (SHARES[name] * kept) for name, members in splits.items())
            if fair > fairest:
                united = int(single[block].max()) + 1 - blocks
                told = _told(splits, of_tile, f"blocks of {block * side:g} m", seed, united, left_out)
                told += _missing(splits, amounts, tuple(found.labels.classes))
                best, fairest = (splits, told, of_tile), fair
    if best is not None:
        return best
    return (
        {},
        (
            f"labels: no splits are dealt: the blocks of ground of {len(tiles)} labelled tiles that share neither "
            f"features nor pixels are {int(joined[1].max()) + 1}, and three are wanted; describe splits, or label more "
            "ground"
        ),
        None,
    )


def _told(
    splits: dict[str, np.ndarray],
    of_tile: np.ndarray,
    blocks: str,
    seed: int,
    united: int,
    left_out: tuple[np.ndarray, np.ndarray],
) -> str:
    parts = [
        f"{name} {len(np.unique(of_tile[own]))} blocks with {len(own)} labelled tiles" for name, own in splits.items()
    ]
    told = f"labels: the description has no splits; {blocks} are dealt (seed {seed}): {', '.join(parts)}"
    if united:
        told += f"; {united} blocks are joined to others, with which they share features"
    if left_out[1].any():
        told += f"; {left_out[1].sum()} tiles share features with more of another split and are in none"
    if (left_out[0] & ~left_out[1]).any():
        told += f"; {(left_out[0] & ~left_out[1]).sum()} tiles overlap those of another split and are in none"
    return told


def _missing(splits: dict[str, np.ndarray], amounts: np.ndarray, classes: Sequence[str]) -> str:
    """Which classes a split lacks, as the end of a sentence."""
    lacking = []
    for split, members in splits.items():
        present = amounts[members].sum(axis=0) > 0
        absent = [name for name, there in zip(classes, present, strict=False) if not there]
        if absent:
            lacking.append(f"{split} has no {', '.join(absent)}")
    return f"; {', '.join(lacking)}" if lacking else ""


def _blocks(place: np.ndarray, positions: np.ndarray, block: int) -> np.ndarray:
    """(N,) block of each tile, numbered without gaps."""
    cells = np.column_stack([place, np.floor(positions / block + 1e-6)])
    return np.unique(cells, axis=0, return_inverse=True)[1].ravel()


def _positions(scenes: Sequence[Scene], tiles: Corners, side: float) -> tuple[np.ndarray, np.ndarray]:
    """(N,) which plane a tile lies in, a number for each CRS or scene without place; (N, 2) row and column of its
    corner there, in tiles."""
    planes: dict[Hashable, tuple[int, float, float]] = {}
    corners = []  # of each scene: plane, row, column
    for number, scene in enumerate(scenes):
        if scene.tiles is None:
            corners.append((planes.setdefault(number, (len(planes), 0.0, 0.0))[0], 0.0, 0.0))
            continue
        grid, resolution = scene.tiles.grid, scene.tiles.resolution
        high, wide = (size / resolution * side for size in (grid.pixel_height, grid.pixel_width))  # of a tile
        key = grid.crs, round(high, 9), round(wide, 9)
        plane, top, left = planes.setdefault(key, (len(planes), grid.top, grid.left))
        corners.append((plane, (top - grid.top) / high, (grid.left - left) / wide))
    plane, *corner = np.array(corners)[tiles.scenes].T
    return plane.astype(int), np.stack(corner, axis=1) + tiles.metres / side


def _joined(of_tile: np.ndarray, touching: np.ndarray) -> np.ndarray:
    """(N,) block of each tile, blocks that share a feature being one, numbered without gaps."""
    parent = list(range(int(of_tile.max()) + 1))

    def root(block: int) -> int:
        while parent[block] != block:
            parent[block] = block = parent[parent[block]]
        return block

    first: dict[int, int] = {}
    for tile, feature in touching.T.tolist():
        block = int(of_tile[tile])
        parent[root(block)] = root(first.setdefault(feature, block))
    _, found = np.unique([root(int(block)) for block in of_tile], return_inverse=True)
    return found


def _astride(place: np.ndarray, positions: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(N,) bool, tiles that share ground with one of another split."""
    cells: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for tile, (plane, (row, column)) in enumerate(zip(place.tolist(), np.floor(positions).astype(int), strict=True)):
        cells[plane, int(row), int(column)].append(tile)
    astride = np.zeros(len(owner), dtype=bool)
    for (plane, row, column), own in cells.items():
        near = [t for r in (-1, 0, 1) for c in (-1, 0, 1) for t in cells.get((plane, row + r, column + c), ())]
        others, mine = np.array(near), np.array(own)
        if (owner[others] == owner[mine[0]]).all() and (owner[mine] == owner[mine[0]]).all():
            continue
        apart = np.abs(positions[mine][:, None] - positions[others][None]).max(axis=2)  # (own, near), in tiles
        astride[mine] |= ((apart < 1 - 1e-6) & (owner[mine][:, None] != owner[others][None])).any(axis=1)
    return astride
