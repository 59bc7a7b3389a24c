"""The table that a regression on embeddings works on: pixels at dates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from fusion.context.samples import context_frames
from fusion.data.year import YEAR

__all__ = ["Rows", "season"]

_FRAMES, _SPAN = 7, 120  # dates of a row's context and the days that they span at most


@dataclass(frozen=True)
class Rows:
    """N pixels at dates.

    Attributes:
        bands: (N, C) observed on the date; ``more``: (N, K) what else the regressors know.
        place: (N,) text; rows of one place in one cube are a series.
        day: (N,) since 1970-01-01; target: (N,).
    """

    bands: np.ndarray
    more: np.ndarray
    place: np.ndarray
    day: np.ndarray
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def context(self) -> np.ndarray:
        """(N, 7) rows of the same place before and after, the row itself in the middle, -1 where there is none."""
        chosen = np.full((len(self), _FRAMES), -1)
        order = np.lexsort((self.day, self.place))
        for own in np.split(order, np.flatnonzero(self.place[order][1:] != self.place[order][:-1]) + 1):
            seen = np.ones((len(own), len(own)), dtype=bool)
            near = context_frames(seen, self.day[own], np.arange(len(own)), _FRAMES, _SPAN)
            chosen[own] = np.where(near >= 0, own[np.maximum(near, 0)], -1)
        return chosen

    def only(self, rows: np.ndarray) -> Rows:
        """These rows, whose context is then among themselves."""
        return Rows(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """One table of several whose places have different names."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})


def season(day: np.ndarray) -> np.ndarray:
    """(N, 2) sine and cosine of the day of the year of days since 1970-01-01."""
    date = day.astype("datetime64[D]")
    angle = 2 * np.pi * (date - date.astype("datetime64[Y]")).astype(np.float64) / YEAR
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)
