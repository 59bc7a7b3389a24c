"""A whole raster that is read again and again: the strips of it, in a file and not in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .blend import Told
from .codec import Dtype
from .formats.array_file import ArrayFile
from .formats.sections import Sections
from .mosaic import Canvas
from .notes import crc
from .shared import PATIENCE, missing_strips
from .strips import strip_count
from .working import GROUP, WorkingRaster

__all__ = ["Blend", "NothingObserved", "blended"]

_ROWS = 64  # of a strip, or a multiple, after which what was computed is on the disk; a group makes a section


class NothingObserved(ValueError):
    """No tile of a raster has an observation."""


@dataclass(frozen=True)
class Blend:
    """One raster of cells.

    Attributes:
        values: (rows, columns, D) float32, NaN where no tile says anything.
        owner: (rows, columns) number of the tile whose weight is largest, from 1; 0 where there is none.
        sections: of a GeoTIFF, all finished; None where none was asked for.
    """

    values: ArrayFile
    owner: ArrayFile
    sections: Sections | None


def blended(
    told: Told,
    canvas: Canvas,
    path: Path,
    working: WorkingRaster,
    depth: int,
    *,
    wait: bool = True,
    geotiff: Dtype | None = None,
) -> Blend | None:
    """The cells of all tiles of a canvas, see :func:`~fusion.embed.shared.missing_strips`.

    Args:
        path: of the raster to come.
        working: what has been finished of it, in whose folder the values are kept: a map may be larger than memory.
        depth: D.
        wait: for strips that other processes are at work on.
        geotiff: rows are compressed for a GeoTIFF of such numbers while others are computed.

    Returns:
        None where some are missing (without ``wait``), or where another process has completed the map.

    Raises:
        NothingObserved: no tile has an observation.
    """
    working.refresh()
    if working.complete:
        return None
    height = -(-told.cells[0] // _ROWS) * _ROWS
    values = ArrayFile(working.path / "values", (*canvas.shape, depth), np.float32)
    owner = ArrayFile(working.path / "owner", canvas.shape, np.int32)
    sections = None if geotiff is None or not depth else Sections(path, working.path, values, geotiff, GROUP * height)
    parts = {"values": values, "owner": owner}

    def contents(strip: int) -> dict[str, int]:
        return {name: crc(part[strip * height : (strip + 1) * height]) for name, part in parts.items()}

    working.verify(contents)
    finish = None if sections is None else sections.compress
    for strip in missing_strips(told, canvas, height, working, depth=depth, wait=wait, finish=finish):
        here = np.s_[strip.top : strip.top + len(strip.values)]
        values[here], owner[here] = strip.values, strip.owner
        values.sync()
        owner.sync()
        made = {"values": crc(strip.values), "owner": crc(strip.owner)}
        working.added(strip.number, made, bool(strip.owner.any()), told)
    if working.complete or len(working.done) < strip_count(canvas, height):
        return None
    if not working.observed:
        raise NothingObserved(told.nothing_observed(f"{len(canvas.tiles)} tiles of {path}"))
    if sections is not None and not _finished(sections, working, wait):
        return None
    return Blend(values, owner, sections)


def _finished(sections: Sections, working: WorkingRaster, wait: bool) -> bool:
    """Compresses the sections that killed processes have left.

    Returns:
        False where some are missing (without ``wait``), or where another process has completed the map.
    """
    for number in range(sections.count):
        while not sections.finished(number):
            try:
                with working.claims.holding(number) as mine:
                    working.refresh()  # who completes a map removes its sections
                    if working.complete:
                        return False
                    if mine and not sections.finished(number):
                        sections.compress(number)
            except FileNotFoundError:
                return False
            if not mine:
                if not wait:
                    return False
                time.sleep(PATIENCE)
    return True
