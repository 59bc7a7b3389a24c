"""A whole raster that is read again and again: the strips of it, in a file and not in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .blend import Told
from .mosaic import Canvas
from .strips import strips

__all__ = ["Blend", "blended"]


@dataclass(frozen=True)
class Blend:
    """One raster of cells.

    Attributes:
        values: (rows, columns, D) float32, NaN where no tile says anything. They lie in a file that goes with the
            ``with`` block.
        owner: (rows, columns) number of the tile whose weight is largest, from 1; 0 where there is none.
    """

    values: np.ndarray
    owner: np.ndarray


@contextlib.contextmanager
def blended(told: Told, canvas: Canvas, path: Path) -> Iterator[Blend]:
    """The cells of all tiles of a canvas, see :func:`~fusion.embed.strips.strips`.

    Args:
        path: of the raster to come, beside which the values are kept: a map may be larger than memory.

    Raises:
        ValueError: no tile has an observation.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:

        def scratch(kind: type, *shape: int) -> np.ndarray:
            file = files.enter_context(tempfile.TemporaryFile(dir=path.parent))
            return np.memmap(file, kind, "w+", shape=shape)

        owner, values = scratch(np.int32, *canvas.shape), None
        for strip in strips(told, canvas, told.cells[0]):
            if values is None:
                values = scratch(np.float32, *canvas.shape, strip.values.shape[-1])
            here = np.s_[strip.top : strip.top + len(strip.values)]
            values[here], owner[here] = strip.values, strip.owner
        if values is None:
            raise ValueError(f"none of the {len(canvas.tiles)} tiles of {path} has an observation: there is no map")
        yield Blend(values, owner)
