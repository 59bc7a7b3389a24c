"""Whether labels are of the years of the images."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .scene import Scene

__all__ = ["other_years", "years_of"]

_TELLS = re.compile(r"(?:^|_)(?:year|yr|jahr|annee|ano|date|datum|surveyed|observed_on|sampled)(?:$|_)", re.IGNORECASE)
_SHOWN = 4


def years_of(frame: Any, field: str) -> dict[str, tuple[int, ...]]:
    """The years that columns of a table tell: dates, or numbers and texts of a column that is called year or date.

    Args:
        frame: a pandas DataFrame.
        field: the column of the labels, which is left alone.
    """
    import pandas

    found = {}
    for name in frame.columns:
        column = frame[name]
        dated = pandas.api.types.is_datetime64_any_dtype(column)
        if name == field or not (dated or _TELLS.search(str(name))):
            continue
        if pandas.api.types.is_numeric_dtype(column) and not dated:
            years = column.to_numpy(dtype=float, na_value=np.nan)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a format that differs from row to row
                years = pandas.to_datetime(column.astype(str), errors="coerce").dt.year.to_numpy(dtype=float)
        years = years[np.isfinite(years)]
        if len(years) and (years == np.floor(years)).all() and years.min() >= 1950 and years.max() <= 2100:
            found[str(name)] = tuple(int(year) for year in np.unique(years))
    return found


def other_years(file: str, told: Mapping[str, Sequence[int]], scenes: Sequence[Scene]) -> str:
    """A sentence if no year of a column is one of the images', else nothing."""
    images = {
        int(year)
        for scene in scenes
        for layer in scene.layers.values()
        if len(layer.dates) and layer.year_known
        for year in np.unique(layer.dates.astype("datetime64[Y]").astype(int) + 1970)
    }
    apart = {name: years for name, years in told.items() if images and not images & set(years)}
    if not apart or len(apart) < len(told):
        return ""
    name, years = next(iter(apart.items()))
    return (
        f"labels: {name} in {file} says {_listed(years)}, the images are of {_listed(sorted(images))}: what grew or "
        "stood there may be another"
    )


def _listed(years: Sequence[int]) -> str:
    if len(years) > _SHOWN:
        return f"{years[0]} to {years[-1]}"
    return " and ".join(", ".join(map(str, years)).rsplit(", ", 1))
