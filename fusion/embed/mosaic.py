"""Which rasters a set of tiles makes, and where each tile lies in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine

from ..data import Geo, Modality

__all__ = ["Canvas", "lay_out"]

# Tiles on one lattice share a raster as long as at least this share of its pixels lies in a tile.
_LEAST_FILL = 1 / 8
# Two tiles are on one lattice if their corners agree with it to this fraction of a cell.
_ALIGNMENT = 0.02


@dataclass(frozen=True)
class Canvas:
    """One raster of cells (patches, pixels of a label map), north up, and the tiles it is made of.

    Attributes:
        transform: from (column, row) of a cell to (x, y) of its upper left corner.
        crs: as the tiles give it; empty for tiles that only know their position in an array.
        shape: rows and columns of cells.
        tiles: (T,) index of each tile in the data set.
        corners: (T, 2) row and column of each tile's upper left cell.
        flipped: the tiles' first row is the southern one, so they are turned over when they are placed.
    """

    transform: Affine
    crs: str
    shape: tuple[int, int]
    tiles: np.ndarray
    corners: np.ndarray
    flipped: bool = False


def lay_out(
    places: Sequence[Geo],
    grid: tuple[int, int],
    modalities: Sequence[Modality],
    names: Sequence[str],
    cells: tuple[int, int] | None = None,
) -> list[Canvas]:
    """Sorts tiles into as few rasters as make sense, in the order of their first tiles.

    Tiles share a raster if they have one CRS and one lattice of cells and are not too scattered; scattered
    tiles share one only with those they touch.

    Args:
        places: where each tile lies; its transform is that of the coarsest grid, whichever modalities are used.
        grid: patches per tile (rows, columns).
        cells: of the raster per tile (rows, columns); by default the patches.

    Raises:
        ValueError: a tile is rotated or mirrored; the message names it.
    """
    rows, columns = cells = cells or grid
    frames = np.array([_patch_frame(*pair, modalities) for pair in zip(places, names, strict=True)])
    frames[:, :2] *= grid[1] / columns, grid[0] / rows  # of a cell
    crs = np.array([place.crs for place in places])
    canvases = []
    remaining = np.arange(len(places))
    while len(remaining):
        width, height, left, first_y = frames[remaining[0]]
        offsets = (frames[remaining, 2:] - (left, first_y)) / (width, height)  # (T, 2) in cells: x, y
        same = (
            (crs[remaining] == crs[remaining[0]])
            & np.isclose(frames[remaining, :2], (width, height), rtol=1e-6, atol=0).all(axis=1)
            & (np.abs(offsets - np.rint(offsets)) < _ALIGNMENT).all(axis=1)
        )
        corners = np.rint(offsets[same]).astype(np.int64)[:, ::-1]  # (T, 2) row, column from the first tile
        if height > 0:  # rows run north: count them from the other end
            corners[:, 0] = -corners[:, 0]
        for members in _groups(corners, cells):
            origin = corners[members].min(axis=0)
            height_, width_ = (int(n) for n in corners[members].max(axis=0) - origin + (rows, columns))
            top = first_y + (height * rows if height > 0 else 0) - abs(height) * origin[0]
            transform = Affine(width, 0, left + width * origin[1], 0, -abs(height), top)
            tiles = remaining[same][members]
            canvases.append(
                Canvas(
                    transform,
                    places[tiles[0]].crs,
                    (height_, width_),
                    tiles,
                    corners[members] - origin,
                    bool(height > 0),
                )
            )
        remaining = remaining[~same]
    return sorted(canvases, key=lambda c: c.tiles[0])


def _patch_frame(place: Geo, name: str, modalities: Sequence[Modality]) -> tuple[float, float, float, float]:
    """Width and (signed) height of a patch and x, y of the corner of the first one, in units of the CRS."""
    a, b, c, d, e, f = place.transform
    if b != 0 or d != 0 or a <= 0 or e == 0:
        raise ValueError(
            f"tile {name}: its transform {place.transform} is rotated or mirrored; a map wants columns that run "
            "east. Warp the data to a north-up grid first (e.g. with gdalwarp)"
        )
    metres = _metres_per_unit(place.crs)
    if metres is None:  # degrees or nothing: only the pixels of the coarsest modality can be counted
        pixels = max(modalities, key=lambda m: m.resolution).patch_size
        return a * pixels, e * pixels, c, f
    side = modalities[0].patch_metres / metres
    return side, math.copysign(side, e), c, f


@functools.cache
def _metres_per_unit(crs: str) -> float | None:
    from rasterio.crs import CRS

    known = CRS.from_user_input(crs) if crs else None
    return known.linear_units_factor[1] if known is not None and known.is_projected else None


def _groups(corners: np.ndarray, cells: tuple[int, int]) -> list[np.ndarray]:
    """Indices of the tiles of each raster: all in one, or those that touch each other."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    extent = np.prod(corners.max(axis=0) - corners.min(axis=0) + np.array(cells), dtype=np.float64)
    distinct = len(np.unique(corners, axis=0))
    if distinct * cells[0] * cells[1] >= _LEAST_FILL * extent:
        return [np.arange(len(corners))]
    # Tiles are boxes of one size: two touch where their corners are at most one tile apart.
    pairs = cKDTree(corners / np.array(cells)).query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray")
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(corners), len(corners)))
    count, component = connected_components(edges, directed=False)
    return [np.flatnonzero(component == k) for k in range(count)]
