"""What the variables of a file say of their bands, dates, place and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np

from ..folder.bands import names_in_file
from ..folder.containers import Arrays, Variable, text
from ..folder.grid import Grid
from ..folder.pixels import StoredPixels
from ..folder.place import Finder, locate
from .guess import Part, Question
from .headers import metres, sample, stored_sample
from .measures import listed, missing_number, unit_of
from .names import is_mask, sensor_of, told_by_bands

__all__ = ["Found", "date_axis", "measure", "name_bands", "place"]


@dataclass
class Found:
    """A variable of data with its axes."""

    variable: Variable
    axes: tuple[str, ...]

    @property
    def own(self) -> str:
        return self.variable.name.rpartition("/")[2]


def name_bands(part: Part, first: Found, variables: Mapping[str, Variable], arrays: Arrays) -> None:
    """Bands along an axis: the coordinate, or a list of names of that length beside it, or numbers and a question."""
    variable = first.variable
    count = variable.shape[first.axes.index("band")]
    names = names_in_file(variable, first.axes, Finder(variable, arrays))
    lists = [
        other for other in variables.values()
        if other.dtype.kind in "SUO" and other.shape == (count,) and other.name not in (variable.name,)
        and "date" not in other.name.lower() and "time" not in other.name.lower()
    ]  # fmt: skip
    group = variable.name.rpartition("/")[0]
    beside = [other for other in lists if group and other.name.rpartition("/")[0] == group]
    lists = beside or lists
    if names and len(set(names)) == count:
        part.source["bands"], part.comments["bands"] = list(names), f"from the coordinate of {variable.name}"
    elif len(lists) == 1 and len(found := {text(name) for name in lists[0][...]}) == count:
        del found
        part.source["bands"] = [text(name) for name in lists[0][...]]
        part.comments["bands"] = f"from {lists[0].name}, the only list of {count} names in the file"
    else:
        where = f"{variable.name} in {variable.path.name}"
        asked = f"{where}, in the order of the file? The file does not say them; replace B1, B2, ... in bands"
        part.number_bands(count, "the file does not name its bands", asked)
    named = told_by_bands(part.source["bands"])
    if named and part.name == "image":
        part.name = named


def date_axis(part: Part, first: Found, dates: Mapping[str, int]) -> None:
    count = first.variable.shape[first.axes.index("time")]
    own = first.variable.dimensions[first.axes.index("time")] if first.variable.dimensions else ""
    group = first.variable.name.rpartition("/")[0]
    fitting = [name for name, number in dates.items() if number == count]
    by_name = [
        n for n in fitting if n in (own, f"{group}/{own}") or n.lower().startswith((first.own.lower(), part.name))
    ]
    beside = [n for n in fitting if group and n.rpartition("/")[0] == group]
    chosen = by_name or beside or _longest(fitting, first.own)
    if len(chosen) >= 1 and (len(chosen) == 1 or by_name):
        part.source["dates"] = chosen[0]
        part.comments["dates"] = f"the {count} dates " + (
            "of its axis" if chosen[0].endswith(own) and own else "in the file"
        )
        return
    part.source["dates"] = [f"{1900 + k:04d}-01-01" for k in range(count)]
    part.comments["dates"] = "placeholders: not known"
    why = f"{listed(fitting)} could each be they" if fitting else f"no variable holds {count} dates"
    part.questions.append(
        Question(f"the {count} dates of {first.variable.name} in {first.variable.path.name}? {why.capitalize()}; give "
                 "dates: a variable or a list", needed=True)
    )  # fmt: skip


def _longest(names: Sequence[str], own: str) -> Sequence[str]:
    """The one that begins like a variable for longest; all where several do or none does."""
    pairs = [zip(name, own, strict=False) for name in names]
    shared = [len(list(takewhile(lambda pair: pair[0] == pair[1], letters))) for letters in pairs]
    best = [name for name, length in zip(names, shared, strict=True) if length == max(shared) > 0]
    return best if len(best) == 1 else names


def place(part: Part, first: Found, arrays: Arrays) -> None:
    """Metres of a pixel, from coordinates or not at all."""
    if "y" not in first.axes:
        return
    variable = first.variable
    part.georeference = _georeference(variable, arrays)
    grid: Grid | None = locate(part.georeference, variable, first.axes, arrays, 1.0, first=True)[0]
    resolution = 0.0 if grid is None else metres(grid)
    if grid is not None and not resolution and grid.pixel_width >= 0.5 and grid.pixel_width == grid.pixel_height:
        resolution = grid.pixel_width
        part.comments["resolution"] = "from the coordinates, taken as metres: the file has no CRS"
    if not resolution:
        resolution = 10.0
        part.comments["resolution"] = "not in the file"
        asked = (
            f"the metres of a pixel in {variable.path.name}? The file does not say them; 10 is written as resolution"
        )
        part.questions.append(Question(asked))
    elif grid is not None and grid.crs and grid.known_crs.is_geographic:
        part.comments["resolution"] = f"nominal, of pixels of {grid.pixel_width:.8g} degrees"
    part.source["resolution"] = int(resolution) if float(resolution).is_integer() else resolution
    height, width = (variable.shape[first.axes.index(axis)] for axis in ("y", "x"))
    part.extent = (height * resolution, width * resolution)
    if grid is not None:
        part.place = (grid.crs, grid.left, grid.top)


def _georeference(variable: Variable, arrays: Arrays) -> dict[str, Any]:
    """epsg and bounds where the file has variables of these names, which no convention knows."""
    finder = Finder(variable, arrays)
    code = next((name for name in ("epsg", "EPSG") if finder.has(name) and finder.array(name).size == 1), "")
    if code and not variable.dimensions and finder.has("bounds") and finder.array("bounds").size == 4:
        return {"epsg": code, "bounds": "bounds"}
    return {}


def measure(part: Part, bands: Sequence[Found]) -> None:
    """The unit, by what values look like, and a number for missing ones that the conventions do not know."""
    first = bands[0].variable
    names = [str(band) for band in part.source["bands"]]
    sensor = told_by_bands(names) or sensor_of(part.name)
    pixels = [StoredPixels(one.variable, one.axes) for one in bands[:12]]
    kept = [k for k, name in enumerate(names) if not is_mask(name)] if "band" in bands[0].axes else [0]
    looked = [sample(one)[kept] for one in pixels]
    values = np.concatenate([values.reshape(1, -1) for values in looked], axis=1)
    if not pixels[0].conventions.nodata and "y" in bands[0].axes:
        declared = first.attributes.get("nodata")
        if isinstance(declared, int | float | np.number) and np.isfinite(float(declared)):
            part.source["nodata"] = int(declared) if float(declared).is_integer() else float(declared)
            part.comments["nodata"] = f"the attribute nodata of {first.name}"
        else:
            stored = [stored_sample(one)[kept] for one in pixels]
            same = len({len(one[0]) for one in stored}) == 1
            found = missing_number(np.concatenate(stored, axis=0 if same else 1), sensor)
            if found is not None:
                part.source["nodata"], part.comments["nodata"] = found
        if "nodata" in part.source:
            values = np.where(values == part.source["nodata"], np.nan, values)
    if "y" not in bands[0].axes:  # weather: a unit each
        return
    unit, why, question = unit_of(values, sensor, part.name, first.path.name, len(names))
    if question and (said := _said_unit(first)):
        unit, why, question = {"unit": said}, {"unit": f"the attribute units of {first.name}"}, None
    part.source.update(unit)
    part.comments.update(why)
    if question:
        part.questions.append(question)


def _said_unit(variable: Variable) -> str:
    """The attribute units, where it is one of a quantity; empty of numbers without unit, such as ``1`` and ``DN``."""
    units = text(variable.attributes.get("units", "")).strip()
    return "" if units.lower() in ("1", "-", "dn", "none", "unitless", "dimensionless", "reflectance") else units
