"""Dates as files write them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["day_of_year", "parse_dates"]

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DATE = re.compile(r"(\d{4})-?(\d{2})(?:-?(\d{2}))?(?:[T ].*)?$")
_ORDINAL = re.compile(r"(\d{4})-?(\d{3})(?:[T ].*)?$")  # year and day of the year
_ZONE = re.compile(r"[T ](\d{2}):?(\d{2})[\d:.,]*\s*([+-])(\d{2}):?(\d{2})?$")  # a time of day, not in UTC
_NAT = np.iinfo(np.int64).min  # as datetime64 and xarray store a time that is lacking
_UNITS = re.compile(
    r"(?P<unit>[a-z]+)\s+since\s+(?P<date>[+-]?\d{1,4}-\d{1,2}-\d{1,2})"
    r"(?:[T\s]+(?P<time>\d{1,2}(?::\d{1,2}(?::\d{1,2}(?:\.\d*)?)?)?))?"
    r"\s*(?P<zone>z|utc|gmt|[+-]\d{1,2}(?::?\d{2})?)?\s*$",
    re.IGNORECASE,
)
_SECONDS = {
    86400.0: ("d", "day", "days"),
    3600.0: ("h", "hr", "hrs", "hour", "hours"),
    60.0: ("min", "mins", "minute", "minutes"),
    1.0: ("s", "sec", "secs", "second", "seconds"),
    1e-3: ("ms", "msec", "msecs", "millisecond", "milliseconds"),
    1e-6: ("us", "microsecond", "microseconds"),
    1e-9: ("ns", "nanosecond", "nanoseconds"),
}
_OF_UNIT = {name: seconds for seconds, names in _SECONDS.items() for name in names}
_LONGEST = 1e12  # seconds from a reference to a date, 31,700 years
_OURS = ("standard", "gregorian", "proleptic_gregorian", "none", "")
_CHANGE = (1582, 10, 15)  # from this day on, the standard calendar is the Gregorian one; before, the Julian


def parse_dates(
    values: Sequence[Any] | np.ndarray, units: str | None = None, calendar: str | None = None
) -> tuple[np.ndarray, bool]:
    """Dates as datetime64[D], and whether their year is known.

    Understands ISO dates and months (``2020-08-17``, ``20200817``, ``2020-08``), year and day of the year
    (``2020230``), names of months (``Sep``; one that
    does not come after its predecessor begins a new year), datetime64, and numbers with CF ``units`` ("days since
    2020-01-01 12:00") and ``calendar`` (CF conventions 4.4; others than the standard ones by the package cftime, as
    the dates that they name). A month without a day means the 15th.

    Raises:
        ValueError: anything else, or a step without date (NaT); the message shows the value.
    """
    array = np.asarray(np.ma.filled(values, np.nan) if np.ma.is_masked(values) else values)
    if array.ndim == 2 and array.dtype.kind in "SU" and array.dtype in ("S1", "U1"):  # text in characters, as NetCDF 3
        array = np.array(["".join(map(_text, row)) for row in array.tolist()])
    array = array.ravel()
    if not len(array):
        return array.astype("datetime64[D]"), True
    if array.dtype.kind == "M":
        return _sane(_complete(array.astype("datetime64[D]"))), True
    if array.dtype.kind in "iuf" and units:
        text = units.strip()
        return _sane(_complete(_numbers(array, text, (calendar or "").strip().lower(), _units(text)))), True
    texts = [_text(value) for value in array]
    if all(text.strip().lower()[:3] in _MONTHS for text in texts):
        return _named_months([_MONTHS.index(text.strip().lower()[:3]) for text in texts]), False
    return _sane(np.array([_one(text) for text in texts], dtype="datetime64[D]")), True


def _sane(dates: np.ndarray) -> np.ndarray:
    years = dates.astype("datetime64[Y]").astype(np.int64) + 1970
    wrong = np.flatnonzero((years < 1) | (years > 9999))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(dates)} are beyond the years 1 to 9999, the first is of the year {years[wrong[0]]}: "
            "check their units, or give the dates as a list"
        )
    return dates


def _complete(dates: np.ndarray) -> np.ndarray:
    lacking = np.flatnonzero(np.isnat(dates))
    if len(lacking):
        raise ValueError(
            f"{len(lacking)} of {len(dates)} time steps have no date (NaT), the first is step {lacking[0]}: give their "
            "dates as a list, or remove the steps"
        )
    return dates


def _units(units: str) -> re.Match[str]:
    found = _UNITS.match(units)
    if not found or found["unit"].lower() not in _OF_UNIT:
        known = ", ".join(names[-1] for names in _SECONDS.values())
        raise ValueError(f"units {units!r}; '<{known}> since 2020-01-01 12:00:00' are understood")
    return found


def _numbers(array: np.ndarray, units: str, calendar: str, found: re.Match[str]) -> np.ndarray:
    """Numbers of a unit since a date and time of day, as datetime64[D] in UTC, NaT for NaN."""
    if calendar not in _OURS:
        return _by_cftime(array, units, calendar)
    start = _first_day(found["date"], calendar) + np.timedelta64(round(_time_of_day(found) * 1000), "ms")
    unit = _OF_UNIT[found["unit"].lower()]
    known = np.isfinite(array) if array.dtype.kind == "f" else array != _NAT
    if (np.abs(np.where(known, array, 0).astype(np.float64)) * unit > _LONGEST).any():
        raise ValueError(f"{array[known][np.abs(array[known]).argmax()]:g} {units} is beyond the years 1 to 9999")
    if array.dtype.kind == "f":
        milliseconds = np.round(np.where(known, array, 0).astype(np.float64) * (unit * 1000)).astype(np.int64)
    elif unit >= 1e-3:
        milliseconds = array.astype(np.int64) * round(unit * 1000)
    else:
        milliseconds = array.astype(np.int64) // round(1e-3 / unit)
    # Half a second: sums of fractions of days may fall a hair short of midnight.
    dates = (start + milliseconds.astype("timedelta64[ms]") + np.timedelta64(500, "ms")).astype("datetime64[D]")
    dates[~known] = np.datetime64("NaT")
    return dates


def _first_day(date: str, calendar: str) -> np.datetime64:
    """Midnight of the reference date, datetime64[ms]."""
    sign = -1 if date.startswith("-") else 1
    year, month, day = (int(part) for part in date.lstrip("+-").split("-"))
    year *= sign
    if calendar != "proleptic_gregorian" and (year, month, day) < _CHANGE:
        # Day number of a Julian date: https://en.wikipedia.org/wiki/Julian_day; 1970-01-01 is 2440588.
        shifted, months = year + 4800 - (14 - month) // 12, month + 12 * ((14 - month) // 12) - 3
        number = day + (153 * months + 2) // 5 + 365 * shifted + shifted // 4 - 32083
        return np.datetime64(0, "ms") + np.timedelta64((number - 2440588) * 86_400_000, "ms")
    try:
        return np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "ms")
    except ValueError as error:
        raise ValueError(f"units count from {date}, which is no date") from error


def _time_of_day(found: re.Match[str]) -> float:
    """Seconds of the reference since midnight in UTC."""
    hours, minutes, seconds = ([float(part) for part in (found["time"] or "0").split(":")] + [0.0, 0.0])[:3]
    zone = (found["zone"] or "z").lower()
    east = 0.0
    if zone not in ("z", "utc", "gmt"):
        digits = zone[1:].replace(":", "")
        east = (int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60) * (-1 if zone[0] == "-" else 1)
    return hours * 3600 + minutes * 60 + seconds - east


def _by_cftime(array: np.ndarray, units: str, calendar: str) -> np.ndarray:
    try:
        import cftime
    except ImportError as error:
        raise ValueError(f"calendar {calendar!r} needs the package cftime: pip install cftime") from error
    known = np.isfinite(array)
    try:
        named = cftime.num2date(np.where(known, array, 0), units, calendar, only_use_cftime_datetimes=True)
    except ValueError as error:
        raise ValueError(f"units {units!r}, calendar {calendar!r}: {error}") from error
    dates = np.full(len(array), np.datetime64("NaT"), dtype="datetime64[D]")
    for i in np.flatnonzero(known):
        try:
            dates[i] = np.datetime64(f"{named[i].year:04d}-{named[i].month:02d}-{named[i].day:02d}", "D")
        except ValueError as error:
            raise ValueError(
                f"{named[i].day} {_MONTHS[named[i].month - 1].capitalize()} {named[i].year} of the calendar "
                f"{calendar!r} is no date; convert the file first, e.g. xarray's convert_calendar('standard', "
                "align_on='year')"
            ) from error
    return dates


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))  # 20200817.0
    return str(value)


def _named_months(months: list[int]) -> np.ndarray:
    year, dates = 1970, []
    for previous, month in zip([-1, *months], months, strict=False):
        year += month <= previous
        dates.append(np.datetime64(f"{year:04d}-{month + 1:02d}-15"))
    return np.array(dates, dtype="datetime64[D]")


def day_of_year(text: str) -> str | None:
    """The ISO date of a year and a day of it, such as ``2020230``; None of anything else, and of a day 366 that is
    none."""
    found = _ORDINAL.match(text.strip())
    if found is None:
        return None
    date = np.datetime64(f"{found[1]}-01-01", "D") + np.timedelta64(int(found[2]) - 1, "D")
    return str(date) if str(date)[:4] == found[1] else None


def _one(text: str) -> np.datetime64:
    text = day_of_year(text) or text
    found = _DATE.match(text.strip())
    try:
        if not found:
            raise ValueError
        date = np.datetime64(f"{found[1]}-{found[2]}-{found[3] or '15'}", "D")
        zone = _ZONE.search(text.strip())
        if zone is None:
            return date
        east = (int(zone[4]) * 60 + int(zone[5] or 0)) * (-1 if zone[3] == "-" else 1)
        minutes = int(zone[1]) * 60 + int(zone[2]) - east
        return date + np.timedelta64(minutes // 1440, "D")
    except ValueError as error:
        raise ValueError(
            f"{text!r} is not a date; 2020-08-17, 20200817, 2020-08, 2020230 (day of the year) or Aug are understood"
        ) from error
