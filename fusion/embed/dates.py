"""The dates that a map covers: of the series that its model was given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data import TileBatch
from ..training.files import write_atomically
from .blend import Told

__all__ = ["Dates", "dates_of"]


class Dates:
    """What a network says of batches, and the first and the last date in them.

    They are kept in a file, so that a map that is gone on with knows those of its beginning.

    Attributes:
        first, last: ISO dates; None where no series has dates.
    """

    def __init__(self, say: Callable[[TileBatch], Tensor]) -> None:
        self._say, self._file = say, Path()
        self.first: str | None = None
        self.last: str | None = None

    def begin(self, file: Path) -> None:
        """From here on the dates of the raster whose file of dates this is."""
        self._file = file
        self.first, self.last = json.loads(file.read_text()) if file.is_file() else (None, None)

    def __call__(self, batch: TileBatch) -> Tensor:
        days = [dates[~np.isnat(dates)] for dates in map(batch.dates, batch.days)]
        known = [str(day) for dates in days if dates.size for day in (dates.min(), dates.max())]
        known += [day for day in (self.first, self.last) if day is not None]
        found = (min(known), max(known)) if known else (None, None)
        if found != (self.first, self.last):
            self.first, self.last = found
            write_atomically(self._file, json.dumps(found).encode())
        return self._say(batch)


def dates_of(told: Told, folder: Path) -> Dates:
    """The dates of what ``told`` is asked from here on.

    Args:
        folder: of the raster until it is whole, in which the dates are kept.
    """
    if not isinstance(told.say, Dates):
        told.say = Dates(told.say)
    told.say.begin(folder / "dates.json")
    return told.say
