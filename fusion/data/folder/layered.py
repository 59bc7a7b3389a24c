"""Rasters whose bands are dates, or bands of several dates: one file holds a series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .calendar import parse_dates
from .conventions import Conventions
from .pixels import Override, Pixels, Window
from .raster import RasterFile

__all__ = ["DESCRIPTIONS", "LayeredRaster", "Order", "holds_date", "order_of"]

DESCRIPTIONS = "descriptions"  # in the place of a list of dates: those in the descriptions of the file's bands
_DATE = re.compile(r"(?<!\d)((?:19|20|21)\d{2})([-_]?)(0[1-9]|1[0-2])(?:\2(0[1-9]|[12]\d|3[01]))?(?!\d)")


class Order(NamedTuple):
    """What the bands of a raster are, by their descriptions.

    Attributes:
        axes: ``(time, y, x)``, ``(time, band, y, x)`` (all bands of a date, then of the next) or ``(band, time, y,
            x)`` (all dates of a band, then of the next).
        bands: names, without the dates; empty for dates of one variable that has no name.
    """

    axes: tuple[str, ...]
    bands: tuple[str, ...]
    dates: tuple[str, ...]


def order_of(descriptions: Sequence[str]) -> Order | None:
    """The order of dates and bands by the descriptions of the bands, e.g. ``2020-04-10`` or ``B04_20200410``; None
    where they are no series: without a date each, with a date twice, or with other bands on other dates."""
    found = [_split(text) for text in descriptions]
    if len(found) < 2 or any(date is None for date, _ in found):
        return None
    dates, bands = (tuple(dict.fromkeys(part)) for part in zip(*found, strict=True))
    wanted = {
        ("time", "band", "y", "x"): [(date, band) for date in dates for band in bands],
        ("band", "time", "y", "x"): [(date, band) for band in bands for date in dates],
    }
    axes = next((axes for axes, pairs in wanted.items() if pairs == found), None)
    if axes is None or len(dates) < 2:
        return None
    own = axes if len(bands) > 1 else ("time", "y", "x")
    return Order(own, tuple(str(band) for band in bands if band), tuple(str(date) for date in dates))


def holds_date(text: str) -> bool:
    """Whether the description of a band has a date."""
    return _split(text)[0] is not None


def _split(text: str) -> tuple[str | None, str]:
    """The date in a description, as ISO, and what is left of it."""
    found = _DATE.search(text)
    if found is None:
        return None, text
    date = "-".join(part for part in (found[1], found[3], found[4]) if part)
    return date, (text[: found.start()] + text[found.end() :]).strip(" _-.:/T")


class LayeredRaster(Pixels):
    """A raster file as a series.

    Args:
        raster: opened with all of its bands.
        axes: of the file's bands, before y and x.
        bands: how many the description names.
        what: for messages.

    Raises:
        ValueError: the bands of the file are no whole number of dates.
    """

    def __init__(self, raster: RasterFile, axes: Sequence[str], bands: int, what: str) -> None:
        self.raster, self.path, self.grid, self.dtype = raster, raster.path, raster.grid, raster.dtype
        self.conventions = raster.conventions
        order = [axis for axis in axes if axis in ("time", "band")]
        several = bands if "band" in order else 1
        layers = raster.sizes["band"]
        if layers % several:
            raise ValueError(
                f"{self.path}: {what}: {layers} bands in the file are no whole number of dates of {several} "
                "bands; give bands as they repeat, and axes: [time, band, y, x] (date by date), [band, time, y, x] "
                "(band by band) or [time, y, x] (each band a date)"
            )
        told = order_of(raster.band_names)
        own = tuple(axis for axis in axes if axis != "band" or several > 1)
        if told is not None and told.axes != own:
            raise ValueError(
                f"{self.path}: {what}: its bands are {', '.join(raster.band_names[:3])}, ...: axes: "
                f"[{', '.join(told.axes)}] is their order"
            )
        dates = layers // several
        numbers = np.arange(layers)
        by_date = numbers.reshape(dates, several) if order[0] == "time" else numbers.reshape(several, dates).T
        self._numbers = by_date  # (dates, bands)
        self.sizes = {"time": dates, "y": raster.sizes["y"], "x": raster.sizes["x"]}
        if "band" in order:
            self.sizes = {"time": dates, "band": several, "y": raster.sizes["y"], "x": raster.sizes["x"]}

    def dates(self, bands: Sequence[str]) -> np.ndarray:
        """(L,) datetime64[D] of the descriptions of the file's bands.

        Raises:
            ValueError: they do not tell a date each, or not in this order of dates and bands.
        """
        names = self.raster.band_names
        told = order_of(names)
        if told is None or len(told.dates) != self.sizes["time"]:
            raise ValueError(
                f"{self.path}: dates: the descriptions of its bands ({', '.join(names[:3]) or 'none'}, ...) do not "
                f"name {self.sizes['time']} dates in the order that axes says; give dates as a list"
            )
        if len(bands) > 1 and told.bands != tuple(bands):
            raise ValueError(
                f"{self.path}: its bands are {', '.join(told.bands)} in this order, the description names "
                f"{', '.join(bands)}; list them as they are in the file and pick with use"
            )
        return parse_dates(told.dates)[0]

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        picked = self._picked(dates, bands)
        codes, masked = self.raster.codes(None, window, picked.ravel().tolist())  # (1, L * bands, h, w)
        shape = (*picked.shape, *codes.shape[-2:])
        return codes.reshape(shape), None if masked is None else np.reshape(masked, shape)

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        picked = self._picked(dates, bands)
        values = self.raster.values(None, window, picked.ravel().tolist(), override)
        return values.reshape(*picked.shape, *values.shape[-2:])

    def conventions_of(self, date: int | None, band: int) -> Conventions:
        return self.raster.conventions.of_bands([int(self._numbers[date or 0, band])])

    def _picked(self, dates: np.ndarray | None, bands: Sequence[int]) -> np.ndarray:
        """(L, bands) numbers of the file's bands."""
        chosen = self._numbers if dates is None else self._numbers[np.asarray(dates, dtype=np.int64)]
        picked: np.ndarray = chosen[:, list(bands)]
        return picked
