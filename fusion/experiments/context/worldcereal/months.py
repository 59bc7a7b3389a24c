"""Which dates of a patch stand for the months of its growing season, wherever on earth it lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ....data import Cube

__all__ = ["NORTH", "SOUTH", "clearest", "names", "season"]

NORTH = ("04", "05", "06", "07", "08", "09")
SOUTH = ("10", "11", "12", "01", "02", "03")


def season(cube: Cube) -> tuple[str, ...]:
    """The months of the growing season: April to September, south of the equator October to March. A cube without
    place is taken to lie in the north."""
    from rasterio.warp import transform

    if cube.geo is None or not cube.geo.crs:
        return NORTH
    a, b, x, d, e, y = cube.geo.transform
    row, column = cube.shape[0] / 2, cube.shape[1] / 2
    middle = [x + a * column + b * row], [y + d * column + e * row]
    latitude = transform(cube.geo.crs, "EPSG:4326", *middle)[1][0]
    return NORTH if latitude >= 0 else SOUTH


def names(cubes: Sequence[Cube], chosen: Sequence[str] | None = None) -> tuple[str, ...]:
    """The months of all cubes by position in the season; of both hemispheres as ``"04/10"``."""
    found = dict.fromkeys(tuple(chosen) if chosen else season(cube) for cube in cubes)
    return tuple("/".join(months) for months in zip(*found, strict=True))


def clearest(dates: np.ndarray, share: np.ndarray, months: Sequence[str]) -> list[int | None]:
    """For each month of the last season the date with the clearest view; None where a month has no clear pixel.

    The last season is that of the last year with a date in the last month that has any.

    Args:
        dates: (T,) datetime64[D]; share: (T,) of the pixels that were observed.
        months: ``"01"`` to ``"12"`` in the order of the season, which may span New Year.
    """
    year, month = dates.astype("datetime64[Y]").astype(int) + 1970, dates.astype("datetime64[M]").astype(int) % 12 + 1
    numbers = [int(m) for m in months]
    offset = [int(number < numbers[0]) for number in numbers]  # after New Year
    known = share > 0
    last = next((k for k in reversed(range(len(numbers))) if (known & (month == numbers[k])).any()), None)
    if last is None:
        return [None] * len(numbers)
    begins = year[known & (month == numbers[last])].max() - offset[last]
    found: list[int | None] = []
    for number, later in zip(numbers, offset, strict=True):
        own = np.flatnonzero(known & (month == number) & (year == begins + later))
        found.append(int(own[share[own].argmax()]) if len(own) else None)
    return found
