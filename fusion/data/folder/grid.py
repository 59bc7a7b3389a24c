"""Grids of pixels on the ground, and what two of them must share."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..tiles import Geo

__all__ = ["Grid", "around", "bounds_of", "check_grid", "difference", "gdalwarp"]

# Share of the coarser pixel by which origins may differ: rounding of coordinates, far below the error of any sensor.
_TOLERANCE = 0.05
_DEGREES = "EPSG:4326"


@dataclass(frozen=True)
class Grid:
    """Pixels of a raster, north up: rows run south and columns east.

    Attributes:
        crs: anything that rasterio understands; empty where the file has none.
        left, top: outer corner of the first pixel, in units of the CRS.
        pixel_width, pixel_height: of a pixel, both above 0.
        height, width: pixels.
    """

    crs: str
    left: float
    top: float
    pixel_width: float
    pixel_height: float
    height: int
    width: int

    @classmethod
    def of_transform(cls, crs: str, transform: tuple[float, ...], height: int, width: int) -> tuple[Grid, bool]:
        """The grid of an affine transform (a, b, c, d, e, f), and whether the rows of the file run north.

        Raises:
            ValueError: a place that is not finite, a rotated or sheared raster, or columns that run west.
        """
        a, b, c, d, e, f = transform[:6]
        if not all(map(math.isfinite, transform[:6])):
            raise ValueError(
                f"its place is no number, transform {tuple(transform[:6])}; give it one (gdal_edit.py -a_ullr)"
            )
        if abs(b) > 1e-9 * abs(a) or abs(d) > 1e-9 * abs(e):
            raise ValueError(f"the raster is rotated, transform {tuple(transform[:6])}; warp it first (gdalwarp)")
        if a <= 0 or e == 0:
            raise ValueError(f"x runs west, transform {tuple(transform[:6])}; turn it so that columns run east")
        return cls(crs, c, f + (height * e if e > 0 else 0.0), a, abs(e), height, width), e > 0

    @property
    def bottom(self) -> float:
        return self.top - self.height * self.pixel_height

    @property
    def right(self) -> float:
        return self.left + self.width * self.pixel_width

    @property
    def transform(self) -> tuple[float, float, float, float, float, float]:
        """(a, b, c, d, e, f) of the pixels."""
        return self.pixel_width, 0.0, self.left, 0.0, -self.pixel_height, self.top

    @property
    def metres(self) -> float | None:
        """Metres per pixel, along the rows; None in degrees and without CRS."""
        if not self.crs or not self.known_crs.is_projected:
            return None
        return float(self.pixel_width * self.known_crs.linear_units_factor[1])

    def metre(self, resolution: float) -> Geo | None:
        """Where a grid of 1 m (by a description's metres per pixel) at the upper left corner lies; None without CRS."""
        if not self.crs:
            return None
        width, height = self.pixel_width / resolution, self.pixel_height / resolution
        return Geo((width, 0.0, self.left, 0.0, -height, self.top), self.crs)

    def window(self, row: int, column: int, height: int, width: int) -> Grid:
        """The grid of some of the pixels."""
        left, top = self.left + column * self.pixel_width, self.top - row * self.pixel_height
        return Grid(self.crs, left, top, self.pixel_width, self.pixel_height, height, width)

    def at(self, resolution: float, own: float) -> Grid:
        """The same ground in pixels of another resolution, both in a description's metres."""
        ratio = resolution / own
        height, width = round(self.height / ratio), round(self.width / ratio)
        return Grid(self.crs, self.left, self.top, self.pixel_width * ratio, self.pixel_height * ratio, height, width)

    @cached_property
    def known_crs(self) -> Any:
        """rasterio's CRS.

        Raises:
            ValueError: ``crs`` is none.
        """
        from rasterio.crs import CRS
        from rasterio.errors import CRSError

        try:
            return CRS.from_user_input(self.crs)
        except CRSError as error:
            raise ValueError(f"{self.crs} is no coordinate reference system ({error})") from error


def around(grid: Grid, target: Grid) -> Grid:
    """The same grid with longitudes that run on without a break where ``target`` lies.

    Longitudes of 0..360, and those on either side of the antimeridian, count from a meridian near the target.
    """
    from rasterio.warp import transform

    if not grid.crs or not target.crs or grid.known_crs != _DEGREES or target.known_crs == _DEGREES:
        return grid
    x, y = (target.left + target.right) / 2, (target.top + target.bottom) / 2
    longitude = transform(target.crs, grid.crs, [x], [y])[0][0]
    turns = 360.0 * round(((grid.left + grid.right) / 2 - longitude) / 360)
    if turns == 0 and abs(longitude) < 170:
        return grid
    meridian = float(round(longitude))
    return replace(grid, crs=f"+proj=longlat +datum=WGS84 +pm={meridian:g}", left=grid.left - turns - meridian)


def check_grid(grid: Grid, resolution: float) -> None:
    """
    Raises:
        ValueError: no coordinate reference system, or pixels of another size than the description says. In degrees the
            description's metres are nominal and are not compared.
    """
    if not grid.crs or not grid.known_crs.is_projected:
        return
    metres = grid.known_crs.linear_units_factor[1]
    width, height = grid.pixel_width * metres, grid.pixel_height * metres
    if max(abs(width / resolution - 1), abs(height / resolution - 1)) > 0.01:
        raise ValueError(f"pixels are {width:g} x {height:g} m, the description says {resolution:g} m")


def difference(
    grid: Grid, resolution: float, wanted: Grid, wanted_resolution: float, *, covering: bool = False
) -> str | None:
    """How a raster's place differs from that of the tiles, with both values; None if it does not.

    Args:
        resolution: metres per pixel of ``grid`` by the description, ``wanted_resolution`` of ``wanted``.
        covering: ``grid`` may reach further south and east.
    """
    # Coordinates without CRS, common in NetCDF, are compared as they are.
    if grid.crs and wanted.crs and grid.crs != wanted.crs and grid.known_crs != wanted.known_crs:
        return f"CRS {grid.crs} where the tiles have {wanted.crs}"
    coarse = max(resolution, wanted_resolution)
    per_metre = wanted.pixel_width / wanted_resolution, wanted.pixel_height / wanted_resolution
    sizes = grid.pixel_width / resolution, grid.pixel_height / resolution
    if any(abs(own / other - 1) > 0.01 for own, other in zip(sizes, per_metre, strict=True)):
        return (
            f"pixels of {grid.pixel_width:g} x {grid.pixel_height:g} where {resolution:g} m are "
            f"{per_metre[0] * resolution:g} x {per_metre[1] * resolution:g} in the tiles"
        )
    off = (grid.left - wanted.left) / per_metre[0], (grid.top - wanted.top) / per_metre[1]  # metres
    if max(map(abs, off)) > _TOLERANCE * coarse:
        return (
            f"origin ({grid.left:.10g}, {grid.top:.10g}) where the tiles have ({wanted.left:.10g}, {wanted.top:.10g})"
        )
    ends = (grid.right - wanted.right) / per_metre[0], (wanted.bottom - grid.bottom) / per_metre[1]
    if any(end <= -coarse or (end >= coarse and not covering) for end in ends):
        return (
            f"bounds {bounds_of(grid)} where the tiles have {bounds_of(wanted)}"
            if not covering
            else f"bounds {bounds_of(grid)}, which do not cover {bounds_of(wanted)} of the tiles"
        )
    return None


def bounds_of(grid: Grid) -> str:
    """(left, bottom, right, top) in words."""
    return f"({', '.join(f'{v:.10g}' for v in (grid.left, grid.bottom, grid.right, grid.top))})"


def gdalwarp(path: object, target: Grid, resampling: str) -> str:
    """The command that puts a raster onto a grid."""
    name = str(path)
    stem, _, suffix = name.rpartition(".")
    parts = ["gdalwarp", *(["-t_srs", target.crs] if target.crs else []), "-te"]
    parts += [f"{v:.10g}" for v in (target.left, target.bottom, target.right, target.top)]
    parts += ["-ts", str(target.width), str(target.height), "-r", resampling, name, f"{stem}_warped.{suffix}"]
    return shlex.join(parts)
