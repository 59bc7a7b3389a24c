"""A whole raster that is read again and again: the strips of it, in a file and not in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from .blend import Told
from .mosaic import Canvas
from .strips import strip_count, strips
from .working import WorkingRaster

__all__ = ["Blend", "NothingObserved", "blended"]

_ROWS = 64  # of a strip at least, after which what was computed is on the disk


class NothingObserved(ValueError):
    """No tile of a raster has an observation."""


@dataclass(frozen=True)
class Blend:
    """One raster of cells.

    Attributes:
        values: (rows, columns, D) float32, NaN where no tile says anything. They lie in a file.
        owner: (rows, columns) number of the tile whose weight is largest, from 1; 0 where there is none.
    """

    values: np.ndarray
    owner: np.ndarray


def blended(told: Told, canvas: Canvas, path: Path, working: WorkingRaster) -> Blend:
    """The cells of all tiles of a canvas, see :func:`~fusion.embed.strips.strips`.

    Args:
        path: of the raster to come.
        working: what an earlier run has finished of it, in whose folder the values are kept: a map may be larger than
            memory.

    Raises:
        NothingObserved: no tile has an observation.
    """
    height = max(told.cells[0], _ROWS)
    files = {name: working.path / name for name in ("values", "owner")}
    depth: int | None = None
    told.damaged = dict(working.damaged)
    if working.strips:
        depth = files["values"].stat().st_size // (4 * canvas.shape[0] * canvas.shape[1])
    values: np.memmap | None = None
    owner: np.memmap | None = None
    if depth is not None and working.strips == strip_count(canvas, height):
        told.progress.skip(len(canvas.tiles))
        values = np.memmap(files["values"], np.float32, "r", shape=(*canvas.shape, depth))
        return Blend(values, np.memmap(files["owner"], np.int32, "r", shape=canvas.shape))
    for strip in strips(told, canvas, height, first=working.strips, depth=depth):
        if values is None or owner is None:
            mode: Literal["r+", "w+"] = "r+" if working.strips else "w+"
            values = np.memmap(files["values"], np.float32, mode, shape=(*canvas.shape, strip.values.shape[-1]))
            owner = np.memmap(files["owner"], np.int32, mode, shape=canvas.shape)
        here = np.s_[strip.top : strip.top + len(strip.values)]
        values[here], owner[here] = strip.values, strip.owner
        values.flush()
        owner.flush()
        working.added(bool(strip.owner.any()), told.damaged)
    if values is None or owner is None:
        raise NothingObserved(
            f"none of the {len(canvas.tiles)} tiles of {path} has an observation: there is no map{told.reasons()}"
        )
    return Blend(values, owner)
