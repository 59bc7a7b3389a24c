"""A pixel's year in a few numbers: the mean of its embeddings, or of its bands, in each part of the year."""

from __future__ import annotations

import numpy as np

from fusion.context import ContextFusion
from fusion.data import Cube

from .dense import BlockEncoder

__all__ = ["PeriodFeatures", "mean_by_part", "part_of_year", "raw_periods"]

_YEAR = 366  # days: every date of a year is in a part


def part_of_year(dates: np.ndarray, periods: int) -> np.ndarray:
    """(T,) which of ``periods`` equal parts of the calendar year each date (datetime64[D]) lies in, from 0."""
    days = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    return np.asarray(days * periods // _YEAR)


def mean_by_part(values: np.ndarray, part: np.ndarray, periods: int) -> np.ndarray:
    """(periods * C, h, w) float32 of values (T, C, h, w): the mean over the dates of each part, NaN where it has none.

    Args:
        values: NaN where not observed.
        part: (T,) from :func:`part_of_year`.
    """
    found = np.full((periods, *values.shape[1:]), np.nan, dtype=np.float32)
    for p in np.unique(part):
        own = values[part == p]
        seen = np.isfinite(own)
        count = seen.sum(axis=0)
        with np.errstate(invalid="ignore"):
            found[p] = np.where(seen, own, 0).sum(axis=0, dtype=np.float64) / np.where(count, count, np.nan)
    return found.reshape(-1, *values.shape[2:])


class PeriodFeatures:
    """The mean embedding of each pixel of a cube in each part of the year, a block of ground at a time.

    Args:
        model: of both stages.
        periods: equal parts of the year.
        longest_gap: see :class:`~fusion.embed.dense.BlockEncoder`.
        pixels: (H, W) bool, those to embed; None for all.
    """

    def __init__(
        self,
        model: ContextFusion,
        cube: Cube,
        *,
        periods: int = 4,
        longest_gap: int = 7,
        pixels: np.ndarray | None = None,
    ) -> None:
        self.encoder = BlockEncoder(model, cube, longest_gap=longest_gap, pixels=pixels)
        self.periods, self.part = periods, part_of_year(self.encoder.dates, periods)

    def __call__(self, rows: slice, columns: slice) -> np.ndarray:
        """(periods * E, h, w) float32, NaN for a part of the year in which a pixel was not seen."""
        return mean_by_part(self.encoder(rows, columns), self.part, self.periods)


def raw_periods(model: ContextFusion, cube: Cube, rows: slice, columns: slice, periods: int) -> np.ndarray:
    """(D, h, w) float32, the control of :class:`PeriodFeatures`: the means of the bands of the model's sensors."""
    size = (rows.stop - rows.start, columns.stop - columns.start)
    columns_of = []
    for name in model.sensors:
        bands = model.sensor(name).config.modality.channels
        if name not in cube.sensors:
            columns_of.append(np.full((periods * bands, *size), np.nan, dtype=np.float32))
            continue
        series = cube.sensors[name]
        values, observed = series.read(rows, columns)
        columns_of.append(
            mean_by_part(np.where(observed, values, np.nan), part_of_year(series.dates, periods), periods)
        )
    return np.concatenate(columns_of)
