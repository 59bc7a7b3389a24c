"""Raw values by date: the dates of tiles brought to a common calendar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from fusion.data import Tile, TileDataset
from fusion.data.spacing import evenly_spaced
from fusion.data.year import YEAR

__all__ = ["Calendar", "filled"]

_DATES = 40  # distinct days that are a column each; of more there is one a month
_MONTH = YEAR / 12  # days
_MOST = 36  # columns of a band
_LOOKED_AT = 500  # tiles whose dates are looked at


@dataclass(frozen=True)
class Calendar:
    """Days that the series of all tiles are brought to, by modality.

    They are the days of the training tiles where these have at most 40 together, else the middles of months.
    """

    days: dict[str, np.ndarray]

    @classmethod
    def of(cls, dataset: TileDataset) -> Calendar:
        """That of some tiles, evenly spaced."""
        seen: dict[str, list[np.ndarray]] = {m.name: [] for m in dataset.modalities if m.kind == "series"}
        for i in evenly_spaced(len(dataset), _LOOKED_AT):
            tile = dataset[int(i)]
            for name in seen.keys() & tile.values.keys():
                seen[name].append(_dates(tile, name)[1])
        found = {}
        for name, dates in seen.items():
            days = np.unique(np.concatenate(dates)) if dates else np.zeros(0)
            if len(days) > _DATES:
                months = np.unique((days / _MONTH).astype(int))
                days = (months + 0.5) * _MONTH
                days = days[np.unique(np.linspace(0, len(days) - 1, min(len(days), _MOST)).round().astype(int))]
            found[name] = days.astype(np.float64)
        return cls(found)

    @property
    def dates(self) -> int:
        """How many days the modality with most of them has."""
        return max((len(days) for days in self.days.values()), default=0)

    def values(self, tile: Tile, name: str) -> np.ndarray | None:
        """(K, C, h, w) of a series: the mean of the valid dates to which each day is the nearest, NaN where there is
        none. None where the tile lacks the modality."""
        centres = self.days[name]
        if name not in tile.values or not len(centres):
            return None
        values, days = _dates(tile, name)  # (L, C, h, w), (L,)
        nearest = np.abs(days[:, None] - centres).argmin(axis=1) if len(days) else np.zeros(0, dtype=int)
        out = np.full((len(centres), *tile.values[name].shape[1:]), np.nan)
        for day in np.unique(nearest):
            out[day] = values[nearest == day].mean(axis=0)
        return out


def filled(values: np.ndarray, days: np.ndarray) -> np.ndarray:
    """(K, ...) with days that are NaN throughout interpolated between their neighbours, held at both ends."""
    known = np.flatnonzero(~np.isnan(values).reshape(len(values), -1).all(axis=1))
    if not len(known) or len(known) == len(values):
        return values
    right = np.searchsorted(known, np.arange(len(values))).clip(0, len(known) - 1)
    left = np.where(known[right] == np.arange(len(values)), right, right - 1).clip(0, len(known) - 1)
    a, b = known[left], known[right]
    span = np.where(days[b] > days[a], days[b] - days[a], 1.0)
    weight = ((days - days[a]) / span).clip(0, 1).reshape(-1, *[1] * (values.ndim - 1))
    return cast(np.ndarray, values[a] * (1 - weight) + values[b] * weight)


def _dates(tile: Tile, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Values (L, C, h, w) float64 and days (L,) of the valid dates of a series."""
    days = tile.days[name].numpy()
    valid = tile.valid[name].numpy() if name in tile.valid else np.ones(len(days), dtype=bool)
    return tile.values[name].numpy()[valid].astype(np.float64), days[valid]
