"""Raster files that GDAL reads: GeoTIFF, JPEG 2000, virtual mosaics."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import DamagedFile, reading
from ..opening import open_raster
from .containers import Arrays
from .conventions import Conventions, equals_any
from .grid import Grid
from .pixels import Pixels, Window

__all__ = ["RASTERS", "RasterFile"]

RASTERS = (".tif", ".tiff", ".jp2", ".vrt")


class RasterFile(Pixels):
    """A raster file: bands of one grid; what its masks or alpha band hide is not observed.

    A small one is read whole when it is first needed and kept, while the memory lasts: a tile of a series is a window
    of many files, and to open each of them for every tile takes longer than to read them.

    Args:
        arrays: say what may be kept, and hold open files.
        bands: how many the description names. Where that is all of them, the last is data even if the file calls it
            alpha, as GDAL does with the fourth band of 8 bit images by default.

    Raises:
        ValueError: a file that cannot be read, is rotated or runs west.
    """

    def __init__(self, path: Path, arrays: Arrays, bands: int | None = None) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        self.path, self._arrays = path, arrays
        self._kept: tuple[np.ndarray, np.ndarray | None] | None = None  # codes (bands, H, W), what is hidden (H, W)
        self._wanted = True  # in memory, if there is room
        with reading(path):
            image = self._open()
            grid, self._south_up = self._place(image)
            alpha = [k for k, role in enumerate(image.colorinterp) if role == ColorInterp.alpha]
            alpha = [] if bands == image.count else alpha
            self._alpha = alpha[0] + 1 if alpha else None  # GDAL makes a mask of it in images of two or four bands only
            self._masked = any(
                MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags for flags in image.mask_flag_enums
            )
            self._bands = [k for k in range(image.count) if k not in alpha]
            nodata = [image.nodatavals[k] for k in self._bands]
            self._nodata = nodata if len(set(map(str, nodata))) > 1 else None  # a mosaic (.vrt) of several sources
            one = () if self._nodata or nodata[0] is None else (nodata[0],)
            self.dtype = np.result_type(*(image.dtypes[k] for k in self._bands))
            named = [image.descriptions[k] or "" for k in self._bands]
            self.band_names = tuple(named) if all(named) else ()
            self.sizes = {"band": len(self._bands), "y": image.height, "x": image.width}
            scale, offset = (np.array(part, dtype=float)[self._bands] for part in (image.scales, image.offsets))
        self.grid = grid
        self.conventions = Conventions(one, scale=_one(scale), offset=_one(offset))

    @property
    def alpha(self) -> int | None:
        """The number of the band, from 1, that is taken for a mask; None where there is none."""
        return self._alpha

    def _place(self, image: Any) -> tuple[Grid | None, bool]:
        if image.crs is None and (image.gcps[0] or (image.rpcs is not None and image.transform.is_identity)):
            by, option = ("ground control points", "-tps") if image.gcps[0] else ("rational polynomials (RPC)", "-rpc")
            raise ValueError(f"{self.path}: is placed by {by} alone; warp it first (gdalwarp {option})")
        crs = "" if image.crs is None else image.crs.to_string()
        if not crs and image.transform.is_identity:
            return None, False
        return self._grid(crs, tuple(image.transform), image.height, image.width)

    def _grid(self, crs: str, transform: tuple[float, ...], height: int, width: int) -> tuple[Grid, bool]:
        try:
            return Grid.of_transform(crs, transform, height, width)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from error

    def _open(self) -> Any:
        return self._arrays.handles.get(self.path, lambda: open_raster(self.path))

    def _hidden(self, image: Any, part: Any) -> np.ndarray | None:
        """(h, w) what a mask of the file or its alpha band hides; None without either."""
        hidden: np.ndarray | None = image.dataset_mask(window=part) == 0 if self._masked else None
        if self._alpha is None:
            return hidden
        transparent = np.asarray(image.read(self._alpha, window=part) == 0)
        return transparent if hidden is None else hidden | transparent

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        row, column, height, width = window
        if self._south_up:
            row = self.sizes["y"] - row - height
        codes, masked = self._stored((row, column, height, width), bands)
        if self._south_up:
            codes, masked = codes[:, ::-1], None if masked is None else masked[::-1]
        hidden = None if masked is None else np.broadcast_to(masked, codes.shape)
        if self._nodata is not None:
            own = [
                equals_any(band, [v for v in [self._nodata[k]] if v is not None])
                for k, band in zip(bands, codes, strict=True)
            ]
            hidden = np.stack(own) if hidden is None else hidden | np.stack(own)
        return codes[None], None if hidden is None else hidden[None]

    def _stored(self, window: Window, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """(bands, h, w) of a window whose row counts from the first of the file, and what is hidden of it (h, w)."""
        row, column, height, width = window
        whole = (0, 0, self.sizes["y"], self.sizes["x"])
        inside = row >= 0 and column >= 0 and row + height <= whole[2] and column + width <= whole[3]
        if self._wanted and self._arrays.keep(int(np.prod(self.shape)) * self.dtype.itemsize):
            self._wanted = False
            with contextlib.suppress(DamagedFile):  # what can be read of it is then read in windows
                self._kept = self._read(whole, range(len(self._bands)))
        if self._kept is None or not inside:
            return self._read(window, bands)
        codes, masked = self._kept
        here = np.s_[..., row : row + height, column : column + width]
        return codes[here][list(bands)], None if masked is None else masked[here]

    def _read(self, window: Window, bands: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        from rasterio.windows import Window as Part

        row, column, height, width = window
        part = Part(column, row, width, height)
        with reading(self.path):
            image = self._open()
            codes: np.ndarray = image.read([self._bands[k] + 1 for k in bands], window=part)
            return codes, self._hidden(image, part)


def _one(values: np.ndarray) -> float | np.ndarray:
    """A number where all bands have the same."""
    return float(values[0]) if np.all(values == values[0]) else values
