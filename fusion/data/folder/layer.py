"""One modality of one scene of a described folder, and windows read from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..series import choose_dates
from .description import Source
from .masks import MaskLayer
from .pixels import Pixels

__all__ = ["Layer"]


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

    @property
    def complete(self) -> np.ndarray:
        """(L,) 1.0 for a date of which every band is there, else 0.0."""
        if self.available is None:
            return np.ones(len(self.dates))
        return self.available.all(axis=1).astype(float)

    def pick(
        self, days: np.ndarray, quality: np.ndarray, max_dates: int | None, rng: np.random.Generator | None = None
    ) -> np.ndarray:
        """Positions of the dates to use, by their days; see :func:`~fusion.data.series.choose_dates`."""
        chosen = choose_dates(days, quality, max_dates or self.source.max_dates, rng)
        return chosen[np.argsort(days[chosen], kind="stable")]

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
        """(L, h, w) bool, see :meth:`.masks.MaskLayer.clear`; all of them without a mask."""
        if self.mask is None:
            return np.ones((1 if dates is None else len(dates), *size), dtype=bool)
        return self.mask.clear(dates, corner, size, resolution)
