"""A raster strip by strip, in the memory of some rows of tiles; where tiles overlap, their average."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .blend import Told
from .mosaic import Canvas

__all__ = ["Strip", "strip_count", "strips"]


@dataclass(frozen=True)
class Strip:
    """Some whole rows of a raster.

    Attributes:
        number: from the north, from 0.
        top: its first row in the raster.
        values: (rows, columns, D) float32, NaN where no tile says anything.
        owner: (rows, columns) number of the tile in the canvas whose weight is largest, from 1; 0 where there is none.
    """

    number: int
    top: int
    values: np.ndarray
    owner: np.ndarray


def strip_count(canvas: Canvas, height: int) -> int:
    """How many strips of ``height`` rows a raster has; the last one may be lower."""
    return -(-canvas.shape[0] // height)


def strips(told: Told, canvas: Canvas, height: int, *, first: int = 0, depth: int | None = None) -> Iterator[Strip]:
    """The strips of a raster, each as soon as every tile that reaches into it has been read.

    Tiles are read from north to south, and where they overlap they are averaged with a weight that falls off to the
    border of each tile. At any time there are ``height`` rows and those of one tile in memory, whatever the raster's
    height. Batches are cut from all tiles, wherever one begins: strip k has the same bits whether it is the first that
    is asked for or not.

    Args:
        height: rows of a strip.
        first: number of the first strip that is wanted.
        depth: D where it is known. Else strips come from the first observed tile on, and none if there is none.
    """
    order = np.lexsort((canvas.corners[:, 1], canvas.corners[:, 0]))
    begin = int(np.searchsorted(canvas.corners[order, 0], first * height - told.cells[0], side="right"))
    begin -= begin % told.batch_size
    window = None if depth is None else _Window(canvas, told.cells, height, first, depth)
    for numbers, cells in told.batches(canvas.tiles[order[begin:]]):  # cells (B, rows, columns, D)
        tiles = order[begin + numbers]
        if window is None:
            window = _Window(canvas, told.cells, height, first, cells.shape[-1])
        for some in _of_one_row(canvas.corners[tiles, 0]):
            while window.bottom <= canvas.corners[tiles[some.start], 0]:
                yield window.next()
            window.add(tiles[some], cells[some])
    while window is not None and window.top < canvas.shape[0]:
        yield window.next()


class _Window:
    """Weighted sums over the rows of a raster in which tiles are still to come."""

    def __init__(self, canvas: Canvas, cells: tuple[int, int], height: int, first: int, depth: int) -> None:
        self.canvas, self.cells, self.height, self.number = canvas, cells, height, first
        self.weight = _taper(cells[0])[:, None] * _taper(cells[1])  # (rows, columns)
        size = (height + cells[0], canvas.shape[1])  # a tile begins above the strip's end
        self.sums = np.zeros((*size, depth), dtype=np.float32)
        self.total, self.strongest = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.float32)
        self.owner = np.zeros(size, dtype=np.int32)

    @property
    def top(self) -> int:
        return self.number * self.height

    @property
    def bottom(self) -> int:
        return self.top + self.height

    def add(self, tiles: np.ndarray, cells: np.ndarray) -> None:
        """Tiles of one row, from west to east, with cells (B, rows, columns, D)."""
        row, lefts = int(self.canvas.corners[tiles[0], 0]), self.canvas.corners[tiles, 1]
        above = max(0, self.top - row)  # rows of the tiles that belong to strips before this one
        if above >= self.cells[0]:
            return
        weight, cells = self.weight[above:], (cells[:, ::-1] if self.canvas.flipped else cells)[:, above:]
        first, columns = row + above - self.top, self.cells[1]
        rows = slice(first, first + len(weight))
        if len(tiles) > columns and (np.diff(lefts) > 0).all():
            # A column of all tiles at once, from the last on: a cell is further to the east in earlier tiles, so that
            # additions keep their order.
            for k in reversed(range(columns)):
                self._add((rows, lefts + k), tiles, weight[:, k, None], cells[:, :, k].swapaxes(0, 1))
        else:
            for tile, left, own in zip(tiles, lefts.tolist(), cells, strict=True):
                self._add((rows, slice(left, left + columns)), tile, weight, own)

    def _add(self, here: tuple[slice, Any], tiles: Any, weight: np.ndarray, cells: np.ndarray) -> None:
        self.sums[here] += weight[..., None] * cells
        self.total[here] += weight
        strongest = self.strongest[here]
        self.owner[here] = np.where(weight > strongest, tiles + 1, self.owner[here])
        self.strongest[here] = np.maximum(weight, strongest)

    def next(self) -> Strip:
        """The strip at the top, which leaves the window."""
        rows = min(self.height, self.canvas.shape[0] - self.top)
        with np.errstate(invalid="ignore"):
            values = self.sums[:rows] / self.total[:rows, :, None]  # 0 / 0 = NaN = no data
        strip = Strip(self.number, self.top, values, self.owner[:rows].copy())
        for part in (self.sums, self.total, self.strongest, self.owner):
            part[: -self.height] = part[self.height :].copy()
            part[-self.height :] = 0
        self.number += 1
        return strip


def _of_one_row(rows: np.ndarray) -> Iterator[slice]:
    """Runs of equal numbers."""
    ends = [*(np.flatnonzero(np.diff(rows)) + 1).tolist(), len(rows)]
    yield from (slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))


def _taper(length: int) -> np.ndarray:
    """Weights that fall off linearly to the borders and never reach 0: 1, 2, 3, 3, 2, 1."""
    k = np.arange(length)
    return np.minimum(k + 1, length - k).astype(np.float32)
