"""Axes of arrays whose files do not name them, by their shape."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["axes_by_shape"]

_PIXELS = 4  # across the smallest image; what is narrower is a table


def axes_by_shape(shape: Sequence[int], dates: set[int], bands: set[int]) -> tuple[str, ...]:
    """The likeliest axes, empty where the shape does not tell.

    Four axes are time, band, y, x; three are time and pixels where there are as many dates, otherwise band and pixels.
    Bands may come last.

    Args:
        dates: numbers of dates that lists in the file have.
        bands: numbers of names that lists in the file have.
    """
    if len(shape) == 4:
        last = shape[3] in bands and shape[1] not in bands
        return ("time", "y", "x", "band") if last else ("time", "band", "y", "x")
    if len(shape) == 3:
        if shape[0] in dates and shape[0] not in bands:
            return ("time", "y", "x")
        last = (shape[2] in bands and shape[0] not in bands) or (
            shape[2] <= 16 < min(shape[:2]) and shape[0] not in bands
        )
        return ("y", "x", "band") if last else ("band", "y", "x")
    if len(shape) == 2:
        return ("time", "band") if shape[0] in dates else ("y", "x") if min(shape) >= _PIXELS else ()
    return ()
