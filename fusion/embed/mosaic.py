"""Which rasters a set of tiles makes, and where each tile lies in them."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from affine import Affine

from ..data import TileDataset
from ..data.places import Places

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


def lay_out(dataset: TileDataset, cells: tuple[int, int] | None = None) -> list[Canvas]:
    """Sorts tiles into as few rasters as make sense, in the order of their first tiles; none where no tile has a place.

    Tiles share a raster if they have one CRS and one lattice of cells and are not too scattered; scattered
    tiles share one only with those they touch.

    Args:
        cells: of the raster per tile (rows, columns); by default the patches.

    Raises:
        ValueError: some tiles have a place and some have not, or one is rotated or mirrored; the message names it.
    """
    places = dataset.located()
    if not places.known.all():
        return _unplaced(dataset, places.known)
    rows, columns = cells = cells or dataset.grid
    sizes = np.array([_patch_size(places, number, dataset) for number in range(len(places.frames))])  # (F, 2)
    sizes *= dataset.grid[1] / columns, dataset.grid[0] / rows  # of a cell
    systems = np.array([frame.crs for frame in places.frames])  # (F,)
    canvases = []
    remaining = np.arange(len(dataset))
    while len(remaining):
        frame, first = places.frame[remaining[0]], places.corners[remaining[0]]
        (width, height), (left, first_y) = sizes[frame], first
        alike = (systems == systems[frame]) & np.isclose(sizes, sizes[frame], rtol=1e-6, atol=0).all(axis=1)  # (F,)
        taken = alike[places.frame[remaining]]
        near = remaining[taken]
        lattice, aligned = np.empty((len(near), 2), dtype=np.int32), np.ones(len(near), dtype=bool)
        for axis, size in enumerate((width, height)):  # one at a time: there may be millions of tiles
            offset = (places.corners[near, axis] - first[axis]) / size
            nearest = np.rint(offset)
            aligned &= np.abs(offset - nearest) < _ALIGNMENT
            lattice[:, 1 - axis] = nearest
        del offset, nearest
        same, corners = near[aligned], lattice[aligned]  # (T,), (T, 2) row, column from the first tile
        if height > 0:  # rows run north: count them from the other end
            corners[:, 0] = -corners[:, 0]
        for members in _groups(corners, cells):
            origin = corners[members].min(axis=0)
            height_, width_ = (int(n) for n in corners[members].max(axis=0) - origin + (rows, columns))
            top = first_y + (height * rows if height > 0 else 0) - abs(height) * origin[0]
            transform = Affine(width, 0, left + width * origin[1], 0, -abs(height), top)
            tiles = same[members]
            canvases.append(
                Canvas(
                    transform,
                    places.frames[frame].crs,
                    (height_, width_),
                    tiles,
                    corners[members] - origin,
                    bool(height > 0),
                )
            )
        taken[taken] = aligned
        remaining = remaining[~taken]
    return sorted(canvases, key=lambda c: c.tiles[0])


def _unplaced(dataset: TileDataset, known: np.ndarray) -> list[Canvas]:
    if known.any():
        raise ValueError(
            f"{(~known).sum()} of {len(known)} tiles have no place, e.g. {dataset.name(int(known.argmin()))}; map them "
            "separately (dataset.subset)"
        )
    return []


def _patch_size(places: Places, number: int, dataset: TileDataset) -> tuple[float, float]:
    """Width and (signed) height of the patches of a frame, in units of the CRS."""
    place, modalities = places.frames[number], dataset.modalities
    a, b, _, d, e, _ = place.transform
    if b != 0 or d != 0 or a <= 0 or e == 0:
        first = int((places.frame == number).argmax())
        (x, y), name = places.corners[first].tolist(), dataset.name(first)
        raise ValueError(
            f"tile {name}: its transform {(a, b, x, d, e, y)} is rotated or mirrored; a map wants columns that run "
            "east. Warp the data to a north-up grid first (e.g. with gdalwarp)"
        )
    metres = _metres_per_unit(place.crs)
    if metres is None:  # degrees or nothing: only the pixels of the coarsest modality can be counted
        pixels = max(modalities, key=lambda m: m.resolution).patch_size
        return a * pixels, e * pixels
    side = modalities[0].patch_metres / metres
    return side, math.copysign(side, e)


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
    least, (_, width) = corners.min(axis=0), np.ptp(corners, axis=0).astype(np.int64) + 1
    keys = np.sort((corners[:, 0] - least[0]) * width + corners[:, 1])
    distinct = 1 + np.count_nonzero(np.diff(keys))
    if distinct * cells[0] * cells[1] >= _LEAST_FILL * extent:
        return [np.arange(len(corners))]
    # Tiles are boxes of one size: two touch where their corners are at most one tile apart.
    pairs = cKDTree(corners / np.array(cells)).query_pairs(1 + 1e-9, p=np.inf, output_type="ndarray")
    edges = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(corners), len(corners)))
    count, component = connected_components(edges, directed=False)
    return [np.flatnonzero(component == k) for k in range(count)]
