"""Headers of rasters, and a look at their values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..folder.containers import Arrays
from ..folder.grid import Grid
from ..folder.pixels import Pixels, Window
from ..folder.raster import RasterFile
from ..spacing import evenly_spaced

__all__ = ["Header", "metres", "read_headers", "sample", "stored_sample"]

_LOOKED = 24  # files of a pattern whose header is read
_SIDE = 128  # pixels of a window whose values are looked at
_DATES = 4  # of a series, whose values are looked at
_WHOLE = (10, 20, 30, 60, 100, 250, 300, 500, 1000)  # metres that products in degrees mean


@dataclass(frozen=True)
class Header:
    """
    Attributes:
        pixels: the open file.
        resolution: metres per pixel.
    """

    pixels: RasterFile
    resolution: float

    @property
    def grid(self) -> Grid | None:
        return self.pixels.grid

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.sizes["y"], self.pixels.sizes["x"]

    @property
    def bands(self) -> int:
        return self.pixels.sizes["band"]

    @property
    def extent(self) -> tuple[float, float]:
        return self.size[0] * self.resolution, self.size[1] * self.resolution


def read_headers(files: Sequence[Path], most: int = _LOOKED) -> list[Header]:
    """Of some files, evenly among them.

    Raises:
        ValueError: a damaged file, or one that the reader refuses; the message begins with the path.
    """
    nothing_kept = Arrays(memory=0)
    chosen = [files[int(i)] for i in evenly_spaced(len(files), min(most, len(files)))]
    found = []
    for path in chosen:
        pixels = RasterFile(path, nothing_kept)
        found.append(Header(pixels, 0.0 if pixels.grid is None else metres(pixels.grid)))
    return found


def metres(grid: Grid) -> float:
    """Metres of a pixel; of degrees nominal ones, of other units by the CRS; 0 where nothing says the unit."""
    if not grid.crs:
        return 0.0
    crs = grid.known_crs
    if crs.is_geographic:
        across = grid.pixel_height * 111_320.0  # metres of a degree of latitude
        whole = min(_WHOLE, key=lambda size: abs(math.log(size / across)))
        return float(whole) if abs(whole / across - 1) < 0.15 else float(f"{across:.2g}")
    factor = float(crs.linear_units_factor[1]) if crs.is_projected else 1.0
    return round(grid.pixel_width * factor, 4)


def sample(pixels: Pixels) -> np.ndarray:
    """(bands, n) values of a central window of some dates, NaN where missing."""
    dates, window, bands = _part(pixels)
    values = pixels.values(dates, window, bands)
    return np.asarray(values.transpose(1, 0, 2, 3).reshape(len(bands), -1))


def stored_sample(pixels: Pixels) -> np.ndarray:
    """The same as stored numbers."""
    dates, window, bands = _part(pixels)
    codes, _ = pixels.codes(dates, window, bands)
    return np.asarray(codes.transpose(1, 0, 2, 3).reshape(len(bands), -1))


def _part(pixels: Pixels) -> tuple[np.ndarray | None, Window, Sequence[int]]:
    height, width = pixels.sizes.get("y", 1), pixels.sizes.get("x", 1)
    rows, columns = min(_SIDE, height), min(_SIDE, width)
    dates = None
    if "time" in pixels.sizes:
        dates = evenly_spaced(pixels.sizes["time"], min(_DATES, pixels.sizes["time"])).astype(int)
    window = ((height - rows) // 2, (width - columns) // 2, rows, columns)
    return dates, window, range(pixels.sizes.get("band", 1))
