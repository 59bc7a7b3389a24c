"""One modality of one scene of a described folder, and windows read from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .description import AXES, Source

__all__ = ["Layer"]


@dataclass
class Layer:
    """One modality of one scene.

    Attributes:
        array: with the axes of the source, in memory or on disk.
        bands: positions of the bands to use along the band axis.
        dates: (L,) datetime64[D]; none for an image.
        available: (L, bands) bool; None where every date has every band.
        mask: array of the mask, and the position of its band or None.
    """

    source: Source
    path: Path
    array: Any
    names: tuple[str, ...]
    bands: list[int]
    dates: np.ndarray = field(default_factory=lambda: np.empty(0, dtype="datetime64[D]"))
    year_known: bool = True
    available: np.ndarray | None = None
    mask: Any = None
    mask_band: int | None = None

    @property
    def resolution(self) -> float:
        """Metres per pixel; 1 where there are no pixels (weather)."""
        return self.source.resolution or 1.0

    @property
    def mask_resolution(self) -> float:
        """Metres per pixel of the mask."""
        mask = self.source.mask
        return self.resolution if mask is None else mask.resolution or self.resolution

    @property
    def extent(self) -> tuple[float, float] | None:
        """Height and width in metres; None where there are no pixels."""
        if not self.source.spatial:
            return None
        shape = dict(zip(self.source.axes, self.array.shape, strict=True))
        return shape["y"] * self.resolution, shape["x"] * self.resolution

    def values(self, dates: np.ndarray | None, window: tuple[int, int, int, int]) -> np.ndarray:
        """(L, bands, h, w) float32 physical values of some dates in a window (row, column, h, w), NaN where not
        observed; L is 1 for an image (no dates), h and w are 1 for weather."""
        source = self.source
        raw = _window(self.array, source.axes, dates, window)[:, self.bands]
        values: np.ndarray = raw.astype(np.float32)
        missing = np.isin(raw, source.nodata)
        if source.range is not None:
            missing |= (raw < source.range[0]) | (raw > source.range[1])
        if source.decibels is not None:
            missing |= raw <= 0
            values = source.decibels * np.log10(np.where(missing, 1, values)) + source.offset
        elif (source.scale, source.offset) != (1, 0):
            values = values * source.scale + source.offset
        if dates is not None and self.available is not None:
            missing |= ~self.available[dates][:, :, None, None]
        return np.where(missing, np.nan, values).astype(np.float32)

    def empty_dates(self) -> int:
        """How many dates have data in less than 5 % of the pixels; of a central window, if the array is on disk."""
        shape = dict(zip(self.source.axes, self.array.shape, strict=True))
        height, width = shape.get("y", 1), shape.get("x", 1)
        window = (0, 0, height, width)
        if not isinstance(self.array, np.ndarray):
            side = min(64, height, width)
            window = ((height - side) // 2, (width - side) // 2, side, side)
        lacking = 0
        for date in range(len(self.dates)):
            missing = np.isnan(self.values(np.array([date]), window))
            lacking += bool(missing.mean() >= 0.95)
        return lacking

    def clear(self, dates: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
        """(L, h, w) bool in a window of the mask's own pixels; all of them without a mask."""
        mask = self.source.mask
        if mask is None:
            return np.ones((len(dates), *window[2:]), dtype=bool)
        axes = AXES if self.mask_band is not None else ("time", "y", "x")
        values = _window(self.mask, axes, dates, window)[:, self.mask_band or 0]
        return np.isin(values, mask.classes) if mask.classes else np.asarray(values <= mask.at_most)


def _window(
    array: Any, axes: tuple[str, ...], dates: np.ndarray | None, window: tuple[int, int, int, int]
) -> np.ndarray:
    """(L, band, h, w), whatever the order of the axes; a lacking axis has length 1."""
    row, column, height, width = window
    part = {"time": slice(None), "band": slice(None), "y": slice(row, row + height), "x": slice(column, column + width)}
    left = list(axes)
    if dates is None or isinstance(array, np.ndarray):
        values = np.asarray(array[tuple(part[axis] for axis in axes)])
        if dates is not None:
            values = values.take(dates, axis=axes.index("time"))
    else:  # on disk: only these dates
        picked = [array[tuple({**part, "time": int(date)}[axis] for axis in axes)] for date in dates]
        values = np.stack([np.asarray(v) for v in picked])
        left = ["time", *(axis for axis in axes if axis != "time")]
    missing = [axis for axis in AXES if axis not in left]
    values = values.reshape(*values.shape, *[1] * len(missing))
    return values.transpose([(left + missing).index(axis) for axis in AXES])
