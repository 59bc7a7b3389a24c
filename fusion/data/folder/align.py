"""Rasters of another place or grid, warped onto that of the tiles when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .grid import Grid, around
from .pixels import Override, Pixels, Window

__all__ = ["Warped"]


class Warped(Pixels):
    """Pixels on another grid: values by default bilinearly (averaged where the grid is coarser), codes from the nearest
    pixel.

    Only the part of the source under a window is read. What it does not cover is not observed.

    Args:
        source: with a place.
        grid: on which to lay it.
        method: of values: bilinear, average or nearest.

    Raises:
        ValueError: the source does not touch the grid.
    """

    def __init__(self, source: Pixels, grid: Grid, method: str = "bilinear") -> None:
        self.source, self.target, self.grid, self.method = source, grid, grid, method
        self.path, self.files, self.dtype = source.path, source.files, source.dtype
        self.conventions, self.band_names = source.conventions, source.band_names
        self.sizes = {**source.sizes, "y": grid.height, "x": grid.width}
        self._own = around(self._placed(), grid)
        self._scale = self._pixels_per_pixel()
        if self._part((0, 0, grid.height, grid.width)) is None:
            raise ValueError(f"{source.path}: does not touch the tiles, neither with align: true")

    def _part(self, window: Window) -> tuple[Window, Grid] | None:
        """The source's window under one of this grid, and its place; None where there is nothing."""
        from rasterio.warp import transform_bounds

        grid, own = self.target.window(*window), self._own
        left, bottom, right, top = transform_bounds(
            grid.crs, own.crs, grid.left, grid.bottom, grid.right, grid.top, densify_pts=21
        )
        rows = (own.top - top) / own.pixel_height, (own.top - bottom) / own.pixel_height
        columns = (left - own.left) / own.pixel_width, (right - own.left) / own.pixel_width
        # Neighbours that the interpolation takes; more of them where it averages many pixels into one.
        margins = [2 + 2 * (b - a) / n for (a, b), n in ((rows, window[2]), (columns, window[3]))]
        first = [max(0, int(np.floor(a - m))) for (a, _), m in zip((rows, columns), margins, strict=True)]
        last = [
            min(n, int(np.ceil(b + m)))
            for (_, b), m, n in zip((rows, columns), margins, (own.height, own.width), strict=True)
        ]
        if first[0] >= last[0] or first[1] >= last[1]:
            return None
        part = first[0], first[1], last[0] - first[0], last[1] - first[1]
        return part, own.window(*part)

    def _pixels_per_pixel(self) -> tuple[float, float]:
        """How many pixels of the target a pixel of the source is across, at most 1: rows and columns."""
        from rasterio.warp import transform

        grid, own = self.target, self._own
        x, y = (grid.left + grid.right) / 2, (grid.top + grid.bottom) / 2
        east, north = transform(grid.crs, own.crs, [x, x + grid.pixel_width, x], [y, y, y + grid.pixel_height])
        columns = np.hypot(east[1] - east[0], north[1] - north[0]) / own.pixel_width
        rows = np.hypot(east[2] - east[0], north[2] - north[0]) / own.pixel_height
        return tuple(1.0 if step < 1.1 else float(1 / step) for step in (rows, columns))  # type: ignore[return-value]

    def _placed(self) -> Grid:
        if self.source.grid is None:
            raise ValueError(f"{self.path}: has no place, so it cannot be aligned")
        return self.source.grid

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        found = self._part(window)
        count = 1 if dates is None else len(dates)
        if found is None:
            shape = (count, len(bands), *window[2:])
            return np.zeros(shape, self.dtype), np.ones(shape, dtype=bool)
        codes, masked = self.source.codes(dates, found[0], bands)
        absent = np.zeros(codes.shape, bool) if masked is None else masked
        near = self._warp(codes, found[1], window, "nearest", 0)
        return near, self._warp(absent.astype(np.uint8), found[1], window, "nearest", 1).astype(bool)

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        found = self._part(window)
        count = 1 if dates is None else len(dates)
        if found is None:
            return np.full((count, len(bands), *window[2:]), np.nan, np.float32)
        return self._warp(self.source.values(dates, found[0], bands, override), found[1], window, self.method, np.nan)

    def _warp(self, pixels: np.ndarray, place: Grid, window: Window, resampling: str, outside: float) -> np.ndarray:
        """(L, bands, h, w) from those at ``place``; ``outside`` where there is none."""
        from affine import Affine
        from rasterio.enums import Resampling
        from rasterio.warp import reproject

        target = self.target.window(*window)
        flat = np.ascontiguousarray(pixels.reshape(-1, *pixels.shape[-2:]))
        if not flat.dtype.isnative:
            flat = flat.astype(flat.dtype.newbyteorder("="))
        result: np.ndarray = np.full((len(flat), *window[2:]), outside, flat.dtype)
        options: dict[str, Any] = {"src_nodata": np.nan, "dst_nodata": np.nan} if np.isnan(outside) else {}
        for layer, out in zip(flat, result, strict=True):
            reproject(
                layer,
                out,
                src_transform=Affine(*place.transform),
                src_crs=place.crs,
                dst_transform=Affine(*target.transform),
                dst_crs=target.crs,
                resampling=Resampling[resampling],
                init_dest_nodata=False,
                tolerance=0,  # of the place, in pixels: GDAL approximates it otherwise
                # Pixels per pixel of the source, which GDAL guesses from the window's outline: at 0.96 instead of 1 its
                # bilinear kernel is off by a twentieth of a pixel.
                XSCALE=self._scale[1],
                YSCALE=self._scale[0],
                **options,
            )
        return result.reshape(*pixels.shape[:2], *window[2:])
