"""Whether reflectance of Sentinel-2 has the 1000 that ESA adds since 25 January 2022 in some of its dates, or in all.

From processing baseline 04.00 on every stored value is 1000 higher (BOA_ADD_OFFSET, RADIO_ADD_OFFSET of -1000 in the
product's metadata): a step between two dates that looks like a change of the land. The dark end tells: shadow and water
are near 0 in every band, and near 1000 with the offset.
"""

from __future__ import annotations

import numpy as np

from .modality import Modality
from .tiles import Tile

__all__ = ["CHANGE", "OFFSET", "DarkEnd"]

CHANGE = np.datetime64("2022-01-25")
OFFSET = 1000.0
_SCALE = {"reflectance x 10000": 1.0, "reflectance": 1e4}
_FLOOR = 900.0  # shadows may come out a little below 0
_CEILING = 1700.0  # where the darkest band of all is brighter, it is the land that is bright
_STEP = (700.0, 1300.0)  # of the typical band between before and after
_ANY_STEP = (300.0, 1700.0)  # of every band: snow is bright in the visible alone
_PIXELS = 1024  # of a date, whose dark end they tell
_LEAST = 2  # dates of tiles on either side
_BELOW = (-1500.0, -300.0)  # no shadow comes out as dark, and what is below is no reflectance at all


class DarkEnd:
    """The dark end of every date of a modality, tile after tile."""

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self._dark: list[np.ndarray] = []  # of every tile and date, (C,) in reflectance x 10000
        self._dates: list[np.datetime64] = []  # NaT where unknown

    def add(self, tile: Tile) -> None:
        """Takes the valid dates of one tile."""
        name, scale = self.modality.name, _SCALE.get(self.modality.unit)
        if scale is None or name not in tile.values:
            return
        values = tile.values[name].numpy()
        dates = np.array([np.datetime64("NaT", "D")])
        if self.modality.kind == "series":
            valid = tile.valid[name].numpy()
            values = values[valid]
            dates = np.full(len(values), np.datetime64("NaT", "D"))
            if tile.origin is not None:
                dates = tile.origin + tile.days[name].numpy()[valid].astype("timedelta64[D]")
        pixels = values.reshape(len(dates), self.modality.channels, -1)  # (L, C, H * W)
        pixels = pixels[:, :, :: max(1, pixels.shape[2] // _PIXELS)]
        self._dark += list(scale * np.percentile(pixels, 1, axis=2))
        self._dates += list(dates)

    def warnings(self) -> list[str]:
        """What is to be said of the offset: nothing, that some dates have it, or that all have."""
        if len(self._dark) < _LEAST:
            return []
        dark, dates = np.stack(self._dark), np.array(self._dates, dtype="datetime64[D]")
        before, after = dates < CHANGE, dates >= CHANGE  # both False for NaT
        if min(before.sum(), after.sum()) >= _LEAST:
            # Clouds, haze and snow make single dates brighter, so the darker ones of either side are compared.
            old, new = (np.percentile(dark[part], 10, axis=0) for part in (before, after))
            step = new - old
            mixed = _STEP[0] <= np.median(step) <= _STEP[1] and _ANY_STEP[0] <= step.min() <= step.max() <= _ANY_STEP[1]
            if mixed and new.min() >= _FLOOR:
                return [self._mixed(dates, float(np.median(old)), float(np.median(new)))]
        darkest = dark.min(axis=1)
        if _BELOW[0] <= np.median(darkest) <= _BELOW[1] and np.ptp(darkest) > 0:  # not a nodata value
            return [
                f"{self.modality.name}: reflectance is far below 0 (dark end "
                f"{self._in_unit(float(np.median(darkest)))}), as if {self._in_unit(OFFSET)} had been subtracted from "
                "data that are harmonised already; leave offset away"
            ]
        low = np.percentile(dark, 2, axis=0)
        if low.min() >= OFFSET and low.min() <= _CEILING:
            return [
                f"{self.modality.name}: nothing is darker than {self._in_unit(low.min())}, as if every value were "
                f"{self._in_unit(OFFSET)} too high: Sentinel-2 of processing baseline 04.00 and later has this offset; "
                f"say offset: -{self._in_unit(OFFSET)}, unless the land is that bright"
            ]
        return []

    def _mixed(self, dates: np.ndarray, old: float, new: float) -> str:
        shown = np.unique(dates[~np.isnat(dates)])
        last, first = shown[shown < CHANGE].max(), shown[shown >= CHANGE].min()
        offset = self._in_unit(OFFSET)
        return (
            f"{self.modality.name}: dates from {first} on are about {self._in_unit(new - old)} higher than those until "
            f"{last} (dark end {self._in_unit(new)} and {self._in_unit(old)}): ESA's processing baseline 04.00 adds "
            f"{offset} to every value since {CHANGE}; say offset: {{{CHANGE}: -{offset}}}, or take harmonised data"
        )

    def _in_unit(self, value: float) -> str:
        return f"{value:.0f}" if self.modality.unit == "reflectance x 10000" else f"{value / 1e4:.3g}"
