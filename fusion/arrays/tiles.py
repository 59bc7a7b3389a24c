"""Tiles that cover arrays: which there are, which of them a part of the result needs, and what a model says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from affine import Affine
from torch import Tensor

from ..data import TileBatch, TileDataset
from ..data.folder import Description
from ..data.folder.scene import Scene
from ..data.folder.scene_tiles import SceneTiles
from ..data.folder.tiling import Corners, cover
from ..embed.blend import Told
from ..embed.mosaic import Canvas
from ..embed.strips import strips
from .given import Given
from .opening import open_arrays
from .placed import Placed

__all__ = ["Cover", "Part", "cover_arrays"]


@dataclass(frozen=True)
class Part:
    """Some rows and columns of a result."""

    rows: slice
    columns: slice

    @classmethod
    def at(cls, corner: np.ndarray, shape: tuple[int, int]) -> Part:
        """``corner``: first row and column."""
        rows, columns = (slice(int(first), int(first) + n) for first, n in zip(corner, shape, strict=True))
        return cls(rows, columns)

    def __str__(self) -> str:
        rows, columns = (f"{axis.start} to {axis.stop - 1}" for axis in (self.rows, self.columns))
        return f"rows {rows} and columns {columns}"

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start


@dataclass(frozen=True)
class Cover:
    """Tiles over arrays, and the raster of cells (patches, pixels, or tiles) that they make.

    Attributes:
        description: of the arrays.
        cells: rows and columns of cells that a tile is made of.
        cell: height and width of a cell in metres, by the modalities' resolution.
        corners: (N, 2) row and column of each tile's first cell.
        shape: rows and columns of cells of all.
        origin: 1 January of the year in which the series begin.
    """

    description: Description
    cells: tuple[int, int]
    cell: tuple[float, float]
    corners: np.ndarray
    shape: tuple[int, int]
    origin: np.datetime64 | None

    @property
    def whole(self) -> Part:
        return Part(slice(0, self.shape[0]), slice(0, self.shape[1]))

    def tiles_of(self, part: Part) -> np.ndarray:
        """Numbers of the tiles that reach into a part."""
        first = np.array([part.rows.start, part.columns.start])
        last = np.array([part.rows.stop, part.columns.stop])
        return np.flatnonzero(((self.corners < last) & (self.corners + self.cells > first)).all(axis=1))

    def window(self, part: Part) -> tuple[float, float, float, float]:
        """Top, left, height and width in metres of the ground that the tiles of a part need."""
        corners = self.corners[self.tiles_of(part)]
        top, left = corners.min(axis=0)
        height, width = corners.max(axis=0) + self.cells - (top, left)
        return (
            float(top * self.cell[0]),
            float(left * self.cell[1]),
            float(height * self.cell[0]),
            float(width * self.cell[1]),
        )

    def given(self, given: Mapping[str, Given], part: Part) -> dict[str, Given]:
        """The pixels that a part needs, north up and without coordinates."""
        metres = self.window(part)
        found = {}
        for name, one in given.items():
            pixels = [round(m / one.modality.resolution) for m in metres]
            found[name] = one.window(*pixels).north_up()
        return found

    def tiles(self, given: Mapping[str, Given], part: Part, *, max_dates: int | None = None) -> SceneTiles:
        """The tiles of a part, of what :meth:`given` says of it."""
        scene = replace(open_arrays(given, self.description), origin=self.origin)
        top, left, _, _ = self.window(part)
        places = self.corners[self.tiles_of(part)] * self.cell - (top, left)
        return SceneTiles(self.description, [scene], Corners.of([places]), max_dates=max_dates, where="arrays")

    def asked(
        self,
        tiles: TileDataset,
        part: Part,
        say: Callable[[TileBatch], Tensor],
        depth: int,
        *,
        batch_size: int,
        placed: Placed,
        damaged: dict[str, str],
    ) -> np.ndarray:
        """(rows, columns, D) float32 of a part, NaN where no tile was observed.

        Args:
            tiles: of the part, in the order of :meth:`tiles_of`.
            say: from B tiles to (B, *cells, D).
            depth: D.
            damaged: is given the rows and columns of tiles that cannot be read, and why.
        """
        corners = self.corners[self.tiles_of(part)]
        first = corners.min(axis=0)
        size = corners.max(axis=0) + self.cells - first
        canvas = Canvas(Affine.identity(), "", (int(size[0]), int(size[1])), np.arange(len(corners)), corners - first)
        top, left = part.rows.start - int(first[0]), part.columns.start - int(first[1])
        height, width = part.shape
        out = np.empty((height, width, depth), dtype=np.float32)
        told = Told(
            say,
            self.cells,
            tiles,
            batch_size,
            0,
            placed.device,
            precision=placed.chosen,
            compiled=placed.compiled,
        )
        for strip in strips(told, canvas, max(self.cells[0], 16), depth=depth):
            upper, lower = max(strip.top, top), min(strip.top + len(strip.values), top + height)
            if upper < lower:
                out[upper - top : lower - top] = strip.values[
                    upper - strip.top : lower - strip.top, left : left + width
                ]
        for tile in range(len(tiles)) if told.damaged else ():
            if tiles.name(tile) in told.damaged:
                area = Part.at(corners[tile], self.cells)
                damaged[str(area)] = told.damaged[tiles.name(tile)]
        return out


def cover_arrays(
    scene: Scene,
    description: Description,
    *,
    overlap: float,
    by: Literal["patch", "pixel"],
    cells: tuple[int, int] | None,
) -> Cover:
    """Tiles over all of the arrays.

    Args:
        overlap: share of a tile's side.
        by: tiles of the border begin on whole patches or on the coarsest pixels.
        cells: of a tile; None for one, or the patches if tiles do not lie on a lattice of whole tiles.

    Raises:
        ValueError: arrays smaller than a tile.
    """
    side, patch = description.tile, description.patch
    if cells is not None:  # tiles begin where cells do, also where these are larger than patches or pixels
        common = _least_common(patch, side / cells[0])
        coarsest = _least_common(
            *(source.resolution for source in description.modalities.values() if source.resolution)
        )
        if common > patch or _least_common(coarsest, side / cells[0]) > coarsest:
            description, by = replace(description, patch=common), "patch"
    places = cover([scene], description, overlap, by)[0]  # (N, 2) metres
    if not len(places):
        extent = " x ".join(f"{length:g}" for length in scene.extent)
        raise ValueError(f"the arrays cover {extent} m, a tile of the model is {side:g} x {side:g} m; give more ground")
    if cells is None:
        whole = np.allclose(places % side, 0)
        cells = (1, 1) if whole else (round(side / patch), round(side / patch))
    cell = (side / cells[0], side / cells[1])
    corners = np.rint(places / cell).astype(np.int64)
    height, width = (int(n) for n in corners.max(axis=0) + cells)
    return Cover(replace(description, patch=patch), cells, cell, corners, (height, width), scene.origin)


def _least_common(*metres: float) -> float:
    """The least length of which all are parts, to the millimetre."""
    return math.lcm(*(round(1000 * length) for length in metres)) / 1000
