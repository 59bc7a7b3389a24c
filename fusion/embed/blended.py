"""A whole raster that is read again and again: the strips of it, in a file and not in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .blend import Told
from .mosaic import Canvas
from .shared import missing_strips
from .strips import strip_count
from .working import WorkingRaster

__all__ = ["ArrayFile", "Blend", "NothingObserved", "blended"]

_ROWS = 64  # of a strip at least, after which what was computed is on the disk


class NothingObserved(ValueError):
    """No tile of a raster has an observation."""


class ArrayFile:
    """An array in a file, which other processes may write at the same time; made if it is not there.

    Of an array that is mapped as a whole every page that was touched counts as memory of the process; here those of one
    window do, while it is read or written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        with open(path, "ab") as file:
            file.truncate(int(np.prod(shape)) * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for top in range(0, len(self), _ROWS):
            yield from self[top : top + _ROWS]

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[window])

    def __setitem__(self, window: Any, values: np.ndarray) -> None:
        """The values are on the disk once this returns."""
        mapped = np.memmap(self.path, self.dtype, "r+", shape=self.shape)
        mapped[window] = values
        mapped.flush()


@dataclass(frozen=True)
class Blend:
    """One raster of cells.

    Attributes:
        values: (rows, columns, D) float32, NaN where no tile says anything.
        owner: (rows, columns) number of the tile whose weight is largest, from 1; 0 where there is none.
    """

    values: ArrayFile
    owner: ArrayFile


def blended(
    told: Told, canvas: Canvas, path: Path, working: WorkingRaster, depth: int, *, wait: bool = True
) -> Blend | None:
    """The cells of all tiles of a canvas, see :func:`~fusion.embed.shared.missing_strips`.

    Args:
        path: of the raster to come.
        working: what has been finished of it, in whose folder the values are kept: a map may be larger than memory.
        depth: D.
        wait: for strips that other processes are at work on.

    Returns:
        None where some are missing (without ``wait``), or where another process has completed the map.

    Raises:
        NothingObserved: no tile has an observation.
    """
    working.refresh()
    if working.complete:
        return None
    height = max(told.cells[0], _ROWS)
    values = ArrayFile(working.path / "values", (*canvas.shape, depth), np.float32)
    owner = ArrayFile(working.path / "owner", canvas.shape, np.int32)
    for strip in missing_strips(told, canvas, height, working, depth=depth, wait=wait):
        here = np.s_[strip.top : strip.top + len(strip.values)]
        values[here], owner[here] = strip.values, strip.owner
        working.added(strip.number, bool(strip.owner.any()), told)
    if working.complete or len(working.done) < strip_count(canvas, height):
        return None
    if not working.observed:
        raise NothingObserved(told.nothing_observed(f"{len(canvas.tiles)} tiles of {path}"))
    return Blend(values, owner)
