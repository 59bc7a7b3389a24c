"""One modality of one scene of a described folder, and windows read from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .conventions import equals_any
from .description import Mask, Source
from .pixels import Pixels

__all__ = ["Layer", "MaskLayer"]


@dataclass
class MaskLayer:
    """Which pixels are clear.

    Attributes:
        band: position of the mask along the band axis.
        dates: (L,) position in the mask of each date of the series; None where one mask holds for all.
        resolution: metres per pixel.
        of_source: the mask is a band of the source itself.
    """

    mask: Mask
    pixels: Pixels
    band: int
    dates: np.ndarray | None
    resolution: float
    of_source: bool = False

    def clear(
        self, dates: np.ndarray | None, corner: tuple[float, float], size: tuple[int, int], resolution: float
    ) -> np.ndarray:
        """(L, h, w) bool on pixels of another resolution: a coarser mask repeated, of a finer one all must be clear.

        Args:
            corner: top and left in metres.
            size: h and w.
        """
        rows, columns = (
            np.floor((start + (np.arange(count) + 0.5) * resolution) / self.resolution).astype(int)
            for start, count in zip(corner, size, strict=True)
        )
        fine = round(resolution / self.resolution)  # mask pixels across a pixel
        if fine > 1:
            rows, columns = (
                (round(start / self.resolution) + np.arange(count * fine))
                for start, count in zip(corner, size, strict=True)
            )
        limits = self.pixels.sizes["y"] - 1, self.pixels.sizes["x"] - 1  # the last pixel may reach over the edge
        rows, columns = (np.minimum(part, limit) for part, limit in zip((rows, columns), limits, strict=True))
        top, left = int(rows[0]), int(columns[0])
        window = top, left, int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
        chosen = None if self.dates is None else self.dates if dates is None else self.dates[dates]
        codes, masked = self.pixels.codes(chosen, window, [self.band])
        clear: Any = equals_any(codes, self.mask.classes)
        if not self.mask.classes:
            with np.errstate(invalid="ignore"):
                clear = self._values(codes, chosen) <= self.mask.at_most
        if masked is not None:
            clear &= ~masked
        clear = clear[:, 0][:, rows[:, None] - rows[0], columns - columns[0]]
        if fine > 1:
            clear = clear.reshape(len(clear), size[0], fine, size[1], fine).all(axis=(2, 4))
        return np.broadcast_to(clear, (1 if dates is None else len(dates), *size))

    def _values(self, codes: np.ndarray, dates: np.ndarray | None) -> np.ndarray:
        """(L, 1, h, w) of stored numbers, by what the file of each date says of them."""
        files = self.pixels.of_files
        if len(files) == 1:
            steps = [(files[0], codes)]
        else:
            order = range(len(files)) if dates is None else dates
            steps = [(files[int(date)], codes[k : k + 1]) for k, date in enumerate(order)]
        read = []
        for file, own in steps:
            said = file.conventions.of_bands([self.band])
            # The nodata value of a raster is that of its other bands.
            read.append((said.overridden(nodata=()) if self.of_source else said).values(own))
        return np.concatenate(read)


@dataclass
class Layer:
    """One modality of one scene.

    Attributes:
        pixels: in memory or on disk; without axes y and x for weather.
        names: of the bands to use, and their positions along the band axis.
        dates: (L,) datetime64[D]; none for an image.
        available: (L, bands) bool; None where every date has every band.
        offsets: (L,) added to the values of each date; None where there is none.
    """

    source: Source
    pixels: Pixels
    names: tuple[str, ...]
    bands: list[int]
    dates: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="datetime64[D]"))
    year_known: bool = True
    available: np.ndarray | None = None
    offsets: np.ndarray | None = None
    mask: MaskLayer | None = None

    @property
    def path(self) -> Path:
        """The first of its files."""
        return self.pixels.path

    @property
    def resolution(self) -> float:
        """Metres per pixel; 1 where there are no pixels (weather)."""
        return self.source.resolution or 1.0

    @property
    def extent(self) -> tuple[float, float] | None:
        """Height and width in metres; None where there are no pixels."""
        if not self.source.spatial:
            return None
        return self.pixels.sizes["y"] * self.resolution, self.pixels.sizes["x"] * self.resolution

    def values(self, dates: np.ndarray | None, window: tuple[int, int, int, int]) -> np.ndarray:
        """(L, bands, h, w) float32 physical values of some dates in a window (row, column, h, w), NaN where not
        observed; L is 1 for an image (no dates), h and w are 1 for weather."""
        source = self.source
        values = self.pixels.values(dates, window, self.bands, source.override)
        if source.decibels is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = source.decibels * np.log10(np.where(values > 0, values, np.nan))
            if isinstance(source.offset, int | float):
                values = values + source.offset
        if dates is not None and self.offsets is not None:
            values = values + self.offsets[dates][:, None, None, None]
        if dates is not None and self.available is not None:
            values = np.where(self.available[dates][:, :, None, None], values, np.nan)
        return values.astype(np.float32, copy=False)

    def clear(
        self, dates: np.ndarray | None, corner: tuple[float, float], size: tuple[int, int], resolution: float
    ) -> np.ndarray:
        """(L, h, w) bool, see :meth:`MaskLayer.clear`; all of them without a mask."""
        if self.mask is None:
            return np.ones((1 if dates is None else len(dates), *size), dtype=bool)
        return self.mask.clear(dates, corner, size, resolution)
