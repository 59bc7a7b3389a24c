"""Dates that can hardly be what they are said to be: given twice, out of order, out of time, or mere numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from .modality import Modality
from .tiles import Tile

__all__ = ["DoubtfulDates", "of_a_satellite"]

_FIRST_IMAGE = np.datetime64("1972-07-23")  # Landsat 1
_FIRST_WEATHER = np.datetime64("1850-01-01")  # instrumental records of some coverage
_EPOCH = np.datetime64("1970-01-01")
_RADIOMETRIC = ("reflectance x 10000", "reflectance", "dB", "dB x 100", "linear", "8 bit")
_BAND = re.compile(r"B\d\d?A?|[VH][VH]|blue|green|red|nir|swir\d?", re.IGNORECASE)
_LEAST = 4  # dates of a series that count as rising by one by more than chance
_FILLED = 0.1  # share of pixels that have one and the same value: they were missing and took the mean


def of_a_satellite(modality: Modality) -> bool:
    """Whether it is imagery, of which there is none before 1972; by its unit, or its bands where that says nothing."""
    if modality.unit:
        return modality.unit in _RADIOMETRIC
    return any(_BAND.fullmatch(band) for band in modality.bands)


@dataclass
class DoubtfulDates:
    """Looks at the series of one modality, tile after tile; :meth:`warnings` says what is doubtful.

    Attributes:
        modality: whose dates these are.
        today: dates after the day that follows are in the future.
    """

    modality: Modality
    today: np.datetime64 = field(default_factory=lambda: np.datetime64("today", "D"))

    def __post_init__(self) -> None:
        self._tiles = 0
        self._unordered: list[str] = []
        self._twice: dict[str, list[tuple[str, str]]] = {}  # by kind: tile and date
        self._outside: dict[str, list[tuple[str, str]]] = {}
        self._numbered = True

    def add(self, tile: Tile) -> None:
        """Takes the dates of one tile, in the order in which it has them."""
        name = self.modality.name
        if self.modality.kind != "series" or name not in tile.values:
            return
        days, valid = tile.days[name].numpy(), tile.valid[name].numpy()
        self._tiles += 1
        if (np.diff(days[valid]) < 0).any():
            self._unordered.append(tile.name)
        numbers = days[valid]
        self._numbered &= len(numbers) >= _LEAST and len(days) == len(numbers) and bool((np.diff(numbers) == 1).all())
        self._add_twice(tile, days, valid)
        if tile.origin is not None:
            self._add_outside(tile, tile.origin + days[valid].astype("timedelta64[D]"))

    def _add_twice(self, tile: Tile, days: np.ndarray, valid: np.ndarray) -> None:
        values = tile.values[self.modality.name].numpy()
        seen = tile.observed.get(self.modality.name)
        found: dict[str, str] = {}
        order = np.argsort(days, kind="stable")
        for first, second in pairwise(order):
            both = valid[first] and valid[second]
            # Of dates that are not valid nothing is used, and a day of 0 is what fills gaps.
            if days[first] != days[second] or not (both or ((valid[first] or valid[second]) and days[first])):
                continue
            if not both:
                kind = "unused"
            elif np.array_equal(values[first], values[second]):
                kind = "same"
            else:
                gaps = [_gaps(values[k], None if seen is None else seen[k].numpy()) for k in (first, second)]
                apart = (gaps[0] | gaps[1]).mean() > 0.8 and (gaps[0] & gaps[1]).mean() < 0.2
                kind = "parts" if apart else "different"
            when = f"day {days[first]}" if tile.origin is None else str(tile.origin + np.timedelta64(days[first], "D"))
            found.setdefault(kind, when)
        for kind, when in found.items():
            self._twice.setdefault(kind, []).append((tile.name, when))

    def _add_outside(self, tile: Tile, dates: np.ndarray) -> None:
        first = _FIRST_IMAGE if of_a_satellite(self.modality) else _FIRST_WEATHER
        late = self.today + np.timedelta64(1, "D")
        for kind, wrong in (
            ("epoch", dates == _EPOCH),
            ("early", (dates < first) & (dates != _EPOCH)),
            ("late", dates > late),
        ):
            if wrong.any():
                self._outside.setdefault(kind, []).append((tile.name, str(dates[wrong][0])))

    def warnings(self) -> list[str]:
        """One sentence or two for each kind of doubt, with the number of tiles, an example and the fix."""
        name, told = self.modality.name, []
        for kind, what in _TWICE.items():
            if kind in self._twice:
                told.append(f"{name}: the same date twice in {self._example(self._twice[kind])}, {what}")
        for kind, what in _OUTSIDE.items():
            if kind in self._outside:
                told.append(f"{name}: {what.format(self._example(self._outside[kind]))}")
        if self._unordered:
            told.append(
                f"{name}: dates are not in order in {len(self._unordered)} of {self._tiles} tiles, e.g. "
                f"{self._unordered[0]}; sort values and dates by date together"
            )
        if self._tiles and self._numbered and of_a_satellite(self.modality):
            told.append(
                f"{name}: the dates of every tile are consecutive days, as if files had been numbered; give the dates "
                "of the acquisitions"
            )
        return told

    def _example(self, found: list[tuple[str, str]]) -> str:
        return f"{len(found)} of {self._tiles} tiles, e.g. {found[0][0]} on {found[0][1]}"


_TWICE = {
    "same": "with the same pixels: a duplicate; drop one of them, or its date counts double",
    "parts": "each with a part of the pixels: one acquisition that was cut in two; merge them into one date",
    "unused": "of which only one is used (the other is clouded or mostly missing); if they are two parts, merge them",
    "different": "with different pixels: two acquisitions or two versions of one; merge them, or keep the newer",
}
_OUTSIDE = {
    "epoch": (
        "the date 1970-01-01 in {}; it stands for a time of 0, which is mostly a missing date or another unit of time"
    ),
    "early": "dates before there were such data in {}; check the unit of the times and the calendar",
    "late": "dates in the future in {}; check the unit of the times and the order of day and month",
}


def _gaps(values: np.ndarray, seen: np.ndarray | None) -> np.ndarray:
    """(H, W) bool: pixels of one date (C, H, W) that were not observed; readers fill them with one value a band."""
    if seen is not None:
        return np.asarray(~seen.any(axis=0))
    levels, counts = np.unique(values[0], return_counts=True)
    if counts.max() < max(2, _FILLED * values[0].size):
        return np.zeros(values.shape[1:], dtype=bool)
    return np.asarray(values[0] == levels[counts.argmax()])
