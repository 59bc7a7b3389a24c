"""Dates as files write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["parse_dates"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"(\d{4})-?(\d{2})(?:-?(\d{2}))?(?:[T ].*)?$")
_UNITS = re.compile(r"(seconds|minutes|hours|days)\s+since\s+(\d{4}-\d{1,2}-\d{1,2})")


def parse_dates(values: Sequence[Any] | np.ndarray, units: str | None = None) -> tuple[np.ndarray, bool]:
    """Dates as datetime64[D], and whether their year is known.

    Understands ISO dates and months (``2020-08-17``, ``20200817``, ``2020-08``), names of months (``Sep``; one that
    does not come after its predecessor begins a new year), datetime64, and numbers with CF ``units`` ("days since
    ..."). A month without a day means the 15th.

    Raises:
        ValueError: anything else; the message shows the value.
    """
    array = np.asarray(values).ravel()
    if not len(array):
        return array.astype("datetime64[D]"), True
    if array.dtype.kind == "M":
        return array.astype("datetime64[D]"), True
    if array.dtype.kind in "iuf" and units:
        found = _UNITS.match(units)
        if not found:
            raise ValueError(f"units {units!r}; 'days since 2020-01-01' is understood")
        seconds = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400}[found[1]]
        year, month, day = map(int, found[2].split("-"))
        start = np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "s")
        return (start + np.round(array * seconds).astype("timedelta64[s]")).astype("datetime64[D]"), True
    texts = [v.decode() if isinstance(v, bytes) else str(v) for v in array]
    if all(text.strip().lower()[:3] in _MONTHS for text in texts):
        return _named_months([_MONTHS.index(text.strip().lower()[:3]) for text in texts]), False
    return np.array([_one(text) for text in texts], dtype="datetime64[D]"), True


def _named_months(months: list[int]) -> np.ndarray:
    year, dates = 1970, []
    for previous, month in zip([-1, *months], months, strict=False):
        year += month <= previous
        dates.append(np.datetime64(f"{year:04d}-{month + 1:02d}-15"))
    return np.array(dates, dtype="datetime64[D]")


def _one(text: str) -> np.datetime64:
    found = _DATE.match(text.strip())
    try:
        if not found:
            raise ValueError
        return np.datetime64(f"{found[1]}-{found[2]}-{found[3] or '15'}", "D")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date; 2020-08-17, 20200817, 2020-08 or Aug are understood") from error
