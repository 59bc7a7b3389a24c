"""NetCDF, Zarr, HDF5 and NPZ: one variable a band, one stacked variable, and dates and names in coordinates."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import reading
from ..folder.calendar import parse_dates
from ..folder.containers import Arrays, Variable, text
from ..folder.place import AXIS_NAMES
from ..spacing import evenly_spaced
from .axes import axes_by_shape
from .guess import Part, Question
from .labels import Labelled, is_label, of_variables
from .measures import ask_offset, ask_whether_labels, listed, mask_of, may_be_target
from .names import in_order, is_band, is_mask, sensor_of, told_by_bands
from .pattern import find_pattern
from .variables import Found, date_axis, measure, name_bands, place

__all__ = ["recognise"]

_CLOUD = re.compile(r"cloud|mask|shadow|(?:^|_)(?:scl|qa|fmask)(?:$|_)", re.IGNORECASE)
_PLAIN = ("data", "values", "image", "images", "x", "array", "reflectance")  # names that say nothing
_LOOKED = 24  # files that are opened to see whether they hold the same
_MEMORY = 1 << 24  # bytes that are kept while looking


def recognise(folder: Path, files: Sequence[Path]) -> tuple[list[Part], Labelled]:
    """The modalities of files that hold the same variables, and a map of labels among them.

    Raises:
        ValueError: a damaged file, no variable with pixels, or names that do not tell scenes.
    """
    arrays, path = Arrays(_MEMORY), folder / files[0]
    with reading(path):
        names = arrays.container(path).names()
    variables = {name: arrays.get(path, name) for name in in_order(names)}
    dates = _dates(variables)
    found = _data(variables, dates)
    pattern = find_pattern(files, banded=False, dated=not any("time" in one.axes for one in found))
    if pattern.unclear:
        raise ValueError(f"{folder}: {len(files)} files such as {files[0]} and {files[-1]}: {pattern.unclear}; rename "
                         "them, e.g. SCENE.nc, or write the description by hand (docs/data.md)")  # fmt: skip
    if not found:
        shown = listed([f"{name} {variable.shape}" for name, variable in variables.items()], 8)
        raise ValueError(f"{path}: no variable with pixels (time, band, y, x) among {len(names)}: {shown or 'none'}")
    flat = [one for one in found if one.axes == ("y", "x") and is_label(one.own) and one.variable.dtype.kind in "iu"]
    clouds = [one for one in found if len(one.axes) == 3 and "band" not in one.axes and _CLOUD.search(one.own)
              and not is_mask(one.own)]  # fmt: skip
    found = [one for one in found if one not in [*flat, *clouds]]
    beside = _left_out(variables, [*found, *flat, *clouds], dates)
    parts = []
    for name, members in _together(found).items():
        part = _part(name, members, variables, dates, arrays, bool(pattern.dates))
        part.source = {"files": pattern.text, **part.source}
        part.comments["files"] = f"{len(files)} file{'s' if len(files) > 1 else ''}{beside}"
        part.scenes = pattern.scenes
        if isinstance(part.source.get("dates"), str):
            days = list(map(str, _days(variables[part.source["dates"]])))
            ask_offset(part, told_by_bands(part.source["bands"]) or sensor_of(part.name), days)
        _optional(part, [folder / file for file in files], arrays)
        parts.append(part)
    if not parts:
        raise ValueError(f"{path}: holds {listed([one.own for one in flat + clouds])} and no image to see with it")
    for one in clouds:
        asked = (
            f"which codes of {one.own} in {path.name} are clear? Write them as mask: {{variable: {one.variable.name}, "
        )
        parts[0].questions.append(Question(f"{asked}classes: [...]}} of {parts[0].name}; the mask is left out"))
    for part in parts:
        if part.source.get("axes") == ["y", "x"] and not is_band(part.name) and may_be_target(part.name):
            part.questions.append(ask_whether_labels(part, path.name, {"variable": part.source["variable"]}))
    resolution = next((part.source["resolution"] for part in parts if "resolution" in part.source), 10)
    return parts, of_variables([one.variable for one in flat], [folder / file for file in files], arrays, resolution)


def _optional(part: Part, files: Sequence[Path], arrays: Arrays) -> None:
    """Marks what some files lack, by those looked at."""
    named = part.source["variable"]
    wanted = [named] if isinstance(named, str) else named
    looked = [files[int(i)] for i in evenly_spaced(len(files), min(_LOOKED, len(files)))]
    lacking = [path for path in looked if not all(arrays.has(path, name) for name in wanted)]
    if lacking:
        part.source["optional"] = True
        part.comments["optional"] = f"{len(lacking)} of {len(looked)} files looked at lack it, e.g. {lacking[0].name}"


def _left_out(variables: Mapping[str, Variable], used: Sequence[Found], dates: Mapping[str, int]) -> str:
    """Arrays of numbers that are neither data nor coordinates, for a comment."""
    names = {one.variable.name for one in used} | set(dates)
    left = [
        f"{name} {variable.shape}" for name, variable in variables.items()
        if name not in names and len(variable.shape) > 1 and variable.dtype.kind in "iuf"
    ]  # fmt: skip
    return f"; left out: {listed(left)}" if left else ""


def _dates(variables: dict[str, Variable]) -> dict[str, int]:
    """Variables that hold dates, with their number."""
    found = {}
    for name, variable in variables.items():
        units = variable.attributes.get("units")
        flat = len(variable.shape) == 1 or (len(variable.shape) == 2 and variable.dtype in ("S1", "U1"))
        if not flat or not variable.shape[0]:
            continue
        numeric = variable.dtype.kind in "iuf"
        if numeric and not (units is not None and " since " in text(units)):
            whole = variable[...]
            if not np.all((whole > 18000000) & (whole < 22000000)):  # 20200817
                continue
        try:
            days = _days(variable)
        except ValueError:
            continue
        if len(days) == variable.shape[0]:
            found[name] = len(days)
    return found


def _days(variable: Variable) -> np.ndarray:
    """(L,) datetime64[D].

    Raises:
        ValueError: no dates.
    """
    units, calendar = (variable.attributes.get(key) for key in ("units", "calendar"))
    return parse_dates(variable[...], *(None if word is None else text(word) for word in (units, calendar)))[0]


def _data(variables: dict[str, Variable], dates: dict[str, int]) -> list[Found]:
    """What has pixels, or time and bands."""
    found = []
    for name, variable in variables.items():
        if variable.dtype.kind not in "iuf" or name in variable.dimensions or name in dates:
            continue
        last = name.rpartition("/")[2].lower()
        if last.endswith(("_bnds", "_bounds")) or last in AXIS_NAMES:
            continue
        of_dates = {known.rpartition("/")[2] for known in dates}
        axes = tuple("time" if own in of_dates else AXIS_NAMES.get(own.lower(), "") for own in variable.dimensions)
        if not variable.dimensions:
            axes = axes_by_shape(variable.shape, set(dates.values()), _lengths(variables, dates))
        known = all(axes) and len(set(axes)) == len(axes)
        if (known and {"y", "x"} <= set(axes) and min(variable.shape) > 0) or (known and set(axes) == {"time", "band"}):
            found.append(Found(variable, axes))
    return found


def _lengths(variables: dict[str, Variable], dates: dict[str, int]) -> set[int]:
    """Lengths of lists of names: how many bands there may be."""
    lists = [v for name, v in variables.items() if name not in dates and len(v.shape) == 1 and v.dtype.kind in "SUO"]
    return {variable.shape[0] for variable in lists}


def _together(found: Sequence[Found]) -> dict[str, list[Found]]:
    """Variables of one modality: bands of one sensor that have the same axes and shape, or one that has bands."""
    groups: dict[tuple[Any, ...], list[Found]] = defaultdict(list)
    for one in found:
        if "band" in one.axes or "y" not in one.axes:
            groups["stack", one.variable.name].append(one)
            continue
        sensor = sensor_of(one.own) or told_by_bands([one.own])
        many = is_band(one.own) or sensor or "time" in one.axes
        kind = sensor or ("s2" if is_band(one.own) else "")
        groups["bands", kind if many else one.own, one.axes, one.variable.shape].append(one)
    _give_masks(groups)
    named: dict[str, list[Found]] = {}
    for key, members in groups.items():
        bands = [one.own for one in members if not is_mask(one.own)]
        if not bands:
            continue
        group = members[0].variable.name.rpartition("/")[0]
        sensor = (sensor_of(members[0].own) if key[0] == "stack" else "") or told_by_bands(bands) or sensor_of(group)
        name = sensor or (bands[0] if len(bands) == 1 else key[1])
        name = (group.replace("/", "-") if name in _PLAIN else name) or "image"
        name = "image" if name in _PLAIN or name.startswith(("__xarray", "stackstac")) else name
        number, first = 2, name
        while name in named:
            name, number = f"{first}-{number}", number + 1
        named[name] = members
    return named


def _give_masks(groups: dict[tuple[Any, ...], list[Found]]) -> None:
    """A mask among the variables goes to the optical bands beside it."""
    masks = {key: [one for one in members if is_mask(one.own)] for key, members in groups.items() if key[0] == "bands"}
    optical = [k for k, members in groups.items() if k[0] == "bands" and k[1] != "s1" and any(
        is_band(one.own) and not is_mask(one.own) for one in members)]  # fmt: skip
    for key, members in masks.items():
        if members and optical and key not in optical:
            for one in members:
                groups[key].remove(one)
                groups[optical[0]].append(one)
    for key in [key for key, members in groups.items() if not members]:
        del groups[key]


def _part(
    name: str, members: Sequence[Found], variables: dict[str, Variable], dates: dict[str, int], arrays: Arrays,
    dated: bool,
) -> Part:  # fmt: skip
    masks = [one for one in members if is_mask(one.own)]
    bands = [one for one in members if one not in masks]
    first = bands[0]
    part = Part(name, {})
    source, comments = part.source, part.comments
    axes = list(first.axes)
    stacked = "band" in axes
    if stacked or len(bands) == 1:
        source["variable"] = first.variable.name
    else:
        source["variable"] = [one.variable.name for one in bands]
        comments["variable"] = "one variable a band"
    whole = ["time", *axes] if dated and "time" not in axes else axes
    if whole != ["time", "band", "y", "x"]:
        source["axes"] = whole
        if not first.variable.dimensions:
            comments["axes"] = f"from the shape {first.variable.shape}: the file does not name its axes"
    if stacked:
        name_bands(part, first, variables, arrays)
    else:
        source["bands"] = [one.own for one in bands]
        comments["bands"] = "names of the variables"
    if "time" in axes:
        date_axis(part, first, dates)
    place(part, first, arrays)
    measure(part, bands)
    inner = [str(band) for band in source["bands"] if is_mask(str(band))]
    if masks:
        source["mask"], comments["mask"] = mask_of(is_mask(masks[0].own), variable=masks[0].variable.name)
    elif inner:
        source["mask"], comments["mask"] = mask_of(is_mask(inner[0]), band=inner[0])
    return part
