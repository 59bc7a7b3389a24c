"""Plain .npy files: a shape and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import reading
from ..folder.calendar import parse_dates
from ..npy import open_array
from .axes import axes_by_shape
from .guess import Part, Question
from .measures import unit_of
from .names import sensor_of
from .pattern import find_pattern

__all__ = ["recognise"]

_RESOLUTION = 10


def recognise(folder: Path, files: Sequence[Path]) -> list[Part]:
    """A modality for each folder of arrays, with questions of bands and metres, which no .npy says.

    Raises:
        ValueError: a damaged file, or one of a shape that is no image or series.
    """
    dates = [path for path in files if path.stem.lower().endswith(("_dates", "_dates_", "dates"))]
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in files:
        if path not in dates:
            groups[path.parent.as_posix()].append(path)
    return [_part(folder, parent, own, dates) for parent, own in sorted(groups.items())]


def _part(folder: Path, parent: str, files: Sequence[Path], dates: Sequence[Path]) -> Part:
    pattern = find_pattern(files, banded=False)
    if pattern.unclear:
        raise ValueError(f"{folder}: {len(files)} arrays such as {files[0]} and {files[-1]}: {pattern.unclear}; rename "
                         "them, e.g. SCENE.npy, or write the description by hand (docs/data.md)")  # fmt: skip
    first = folder / files[0]
    with reading(first):
        array = open_array(first)
    known = {n: path for path in dates if (n := _count(folder / path)) and path.parent.as_posix() == parent}
    axes = list(axes_by_shape(array.shape, set(known), set()))
    if not axes:
        raise ValueError(
            f"{first}: shape {array.shape} is no image or series: (time, band, y, x), (band, y, x) or (y, x)"
        )
    sensor = sensor_of(parent) or sensor_of(files[0].stem)
    part = Part(sensor or (Path(parent).name if parent != "." else "image"), {"files": pattern.text})
    part.comments["files"] = f"{len(files)} files"
    whole = ["time", *axes] if pattern.dates and "time" not in axes else axes
    part.source["axes"] = whole
    part.comments["axes"] = f"from the shape {array.shape}, which is all that the file says"
    count = array.shape[axes.index("band")] if "band" in axes else 1
    asked = f"{files[0]} and its like, in the order of the file? Replace B1, B2, ... in bands"
    part.number_bands(count, "a .npy does not name its bands", asked)
    part.source["resolution"] = _RESOLUTION
    part.comments["resolution"] = "not in the file"
    part.questions.append(Question(f"the metres of a pixel of the .npy? {_RESOLUTION} is written as resolution"))
    if "time" in axes:
        _date(part, files, known.get(array.shape[axes.index("time")]), array.shape[axes.index("time")])
    order = [axes.index(axis) for axis in ("band", *[a for a in axes if a != "band"]) if axis in axes]
    values = np.asarray(array[:4] if axes[0] == "time" else array, dtype=float)
    values = values.transpose(order).reshape(count, -1)
    unit, why, question = unit_of(values, sensor, part.name, files[0].name, count)
    part.source.update(unit)
    part.comments.update(why)
    if question:
        part.questions.append(question)
    if axes == ["y", "x"]:
        asked = f"is {files[0]} an image, as is written here, or what is to be predicted (labels)?"
        part.questions.append(Question(asked))
    part.scenes = pattern.scenes
    height, width = (array.shape[axes.index(axis)] for axis in ("y", "x"))
    part.extent = (float(height * _RESOLUTION), float(width * _RESOLUTION))
    return part


def _count(path: Path) -> int:
    """How many dates a file holds; 0 if it holds none."""
    try:
        with reading(path):
            return len(parse_dates(np.array(open_array(path)))[0])
    except ValueError:
        return 0


def _date(part: Part, files: Sequence[Path], own: Path | None, count: int) -> None:
    if own is not None:
        name = own.as_posix()
        scene = next((path.stem for path in files if own.stem.startswith(path.stem)), "")
        text = name.replace(scene, "{scene}") if scene and "{scene}" in part.source["files"] else name
        part.source["dates"] = text
        part.comments["dates"] = f"a file of {count} dates"
        return
    part.source["dates"] = [f"{1900 + k:04d}-01-01" for k in range(count)]
    part.comments["dates"] = "placeholders: not known"
    part.questions.append(
        Question(
            f"the {count} dates of {files[0]} and its like? No file of {count} dates lies beside it; give dates: a "
            "list or a file such as {scene}_dates.npy",
            needed=True,
        )
    )
