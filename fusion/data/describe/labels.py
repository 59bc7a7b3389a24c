"""Labels beside the images: a map of few codes, a vector file or a table of points with one field that can be meant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import decoding
from ..folder.containers import Arrays, Variable
from ..folder.conventions import Conventions
from ..spacing import evenly_spaced
from .guess import Question
from .headers import Header, read_headers
from .listing import Listing
from .measures import listed
from .names import DATE
from .pattern import find_pattern

__all__ = ["Labelled", "find_labels", "is_label", "of_variables", "take_label_rasters"]

_WORDS = re.compile(
    r"(?:^|[_\-./ ])(?:labels?|worldcover|masks?|crops?|croptypes?|class|classes|landcover|land_cover|lulc|lc|gt|truth|"
    r"targets?|annotations?|reference|parcels?)(?:$|[_\-./ \d])",
    re.IGNORECASE,
)
_QUANTITIES = re.compile(
    r"(?:^|[_\-./ ])(?:biomass|agbd?m?|canopy|canopyheight|canopy_height|chm|yields?|carbon|soc|gpp|volume|basal_area)"
    r"(?:$|[_\-./ \d])",
    re.IGNORECASE,
)
_LOOKED = 50  # files whose codes are read
_CODES = 60  # more different numbers are a quantity
_NAMES = re.compile(r"crop|class|label|type|species|cover|code|target|category|name|lc", re.IGNORECASE)
_IDENTITY = re.compile(
    r"(?:^|_)(?:fid|id|gid|uid|ogc_fid|objectid|index|area|perimeter|length|shape_.*)$|^id_|_id$", re.I
)
_PAIRS = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"))
_ROWS = 20_000  # of a table or layer that are looked at


@dataclass
class Labelled:
    """What stands under ``labels``, empty where nothing is clear; and why."""

    table: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


def is_label(name: str) -> bool:
    """Whether a name is one of those of maps of labels."""
    return _WORDS.search(name) is not None


def take_label_rasters(listing: Listing) -> list[Path]:
    """Rasters that are maps of labels by their name: without date, of one band, of integers, or of what is called like
    a quantity that people predict. Taken from the listing."""
    if len(listing.data) < 2:
        return []
    for words, kinds in ((_WORDS, "iu"), (_QUANTITIES, "iuf")):
        named = [p for p in listing.rasters if words.search(p.with_suffix("").as_posix()) and not DATE.search(str(p))]
        if not named or len(named) == len(listing.data):
            continue
        headers = read_headers([listing.folder / path for path in named], 8)
        if all(header.bands == 1 and header.pixels.dtype.kind in kinds for header in headers):
            listing.take("rasters", named)
            return named
    return []


def find_labels(listing: Listing, rasters: Sequence[Path], scenes: Sequence[str]) -> Labelled:
    """
    Args:
        rasters: those of :func:`take_label_rasters`.
        scenes: of the modalities.

    Raises:
        ValueError: a damaged file.
    """
    candidates = [*listing.vectors, *listing.tables]
    if rasters and candidates:
        question = f"which labels are meant: {rasters[0]} or {listed(candidates)}? Describe one of them as labels"
        return Labelled(questions=[Question(question)])
    if rasters:
        return _of_rasters(listing.folder, rasters, scenes)
    found = [one for path in candidates if (one := _of_features(listing.folder, path)) is not None]
    if len(found) > 1:
        return Labelled(
            questions=[Question(f"which labels are meant: {listed(candidates)}? Describe one of them as labels")]
        )
    return found[0] if found else Labelled()


def _of_rasters(folder: Path, files: Sequence[Path], scenes: Sequence[str]) -> Labelled:
    pattern = find_pattern(files, banded=False)
    of_scenes = [scene for scene in scenes if scene]
    if len(files) == 1 and of_scenes and of_scenes[0] in files[0].stem and len(of_scenes) == 1:
        text = files[0].as_posix().replace(of_scenes[0], "{scene}")
    else:
        text = pattern.text
        if pattern.unclear or ("{scene}" in text and not set(pattern.scenes) & set(of_scenes)):
            shown = f"of {pattern.scenes[0]}" if pattern.scenes else "by their names"
            return Labelled(
                questions=[Question(f"of which scenes are the labels {listed(files)} ({shown})? Describe labels")]
            )
    headers = read_headers([folder / path for path in files], _LOOKED)
    if _QUANTITIES.search(files[0].with_suffix("").as_posix()):
        comments = {"files": "one band, a quantity to be predicted by its name", "reduction": "a guess: the map itself"}
        return Labelled({"files": text, "reduction": "none"}, comments)
    declared = {int(value) for header in headers for value in header.pixels.conventions.nodata}
    codes = [code for code in _codes(headers) if code not in declared]
    resolution = headers[0].resolution or 10.0
    table = {"files": text, "resolution": int(resolution) if float(resolution).is_integer() else resolution}
    where = f"{len(headers)} of {len(files)} files"
    return _of_codes(
        table, {"files": "one band of integers, labels by its name"}, codes, bool(declared), str(files[0]), where
    )


def of_variables(variables: Sequence[Variable], files: Sequence[Path], arrays: Arrays, resolution: float) -> Labelled:
    """A map of labels among the variables of files: (y, x) of few codes, and a name of labels.

    Args:
        variables: of the first of the files.
    """
    if len(variables) > 1:
        return Labelled(
            questions=[Question(f"which labels are meant: {listed([v.name for v in variables])}? Describe labels")]
        )
    if not variables:
        return Labelled()
    (variable,) = variables
    declared = Conventions.of_attributes(variable.attributes, variable.dtype).nodata
    looked = [files[int(i)] for i in evenly_spaced(len(files), min(_LOOKED, len(files)))]
    found: set[int] = set()
    for path in looked:
        if arrays.has(path, variable.name):
            found |= {int(code) for code in np.unique(arrays.get(path, variable.name)[...])}
    codes = sorted(code for code in found if code not in declared)
    table = {"variable": variable.name, "resolution": resolution}
    why = {"variable": "integers without time, labels by its name"}
    return _of_codes(table, why, codes, bool(declared), variable.name, f"{len(looked)} of {len(files)} files")


def _of_codes(
    table: dict[str, Any], why: dict[str, str], codes: Sequence[int], declared: bool, name: str, where: str
) -> Labelled:
    """Labels of a map with some codes.

    Args:
        declared: the file says which number is no label.
    """
    if len(codes) > _CODES or len(codes) < 2:
        asked = (
            f"what are the {len(codes)} different numbers of {name}? Describe labels; reduction: mean is for a quantity"
        )
        return Labelled(questions=[Question(asked)])
    found = Labelled({**table, "reduction": "none"}, why)
    found.comments["reduction"] = "a guess: the map itself; majority or any make one label a tile"
    if 0 in codes and not declared and len(codes) > 2:
        codes = [code for code in codes if code]
        found.table["nodata"] = 0
        found.comments["nodata"] = "a guess: 0 mostly means no label"
        found.questions.append(Question(f"is the code 0 in {name} a class, or no label as is written here?"))
    found.table["classes"] = {f"class {code}": code for code in codes}
    found.comments["classes"] = f"the codes in {where}; give them names"
    return found


def _codes(headers: Sequence[Header]) -> list[int]:
    """The numbers that occur, at most so many rows of each file looked at."""
    found: set[int] = set()
    for header in headers:
        height, width = header.size
        for row in range(0, height, 1024):
            window = (row, 0, min(1024, height - row), width)
            codes, hidden = header.pixels.codes(None, window, [0])
            found |= {int(code) for code in np.unique(codes if hidden is None else codes[~hidden])}
            if len(found) > 4 * _CODES:
                return sorted(found)
    return sorted(found)


def _of_features(folder: Path, path: Path) -> Labelled | None:
    """None for a table without coordinates, which is no table of labels."""
    table = path.suffix.lower() in (".csv", ".tsv")
    try:
        frame, layers = _table(folder / path) if table else _layer(folder / path)
    except ImportError as error:
        question = f"what is in {path}? It needs the package {error.name}: pip install 'eo-fusion[vector]'"
        return Labelled(questions=[Question(question)])
    if frame is None:
        return None
    if len(layers) > 1:
        return Labelled(questions=[Question(f"which layer of {path} are the labels: {listed(layers, 8)}?")])
    places = {name for pair in _PAIRS for name in pair}
    columns = [name for name in frame.columns if not (table and name.lower() in places)]
    fields = [name for name in columns if _kind(frame[name], str(name))]
    preferred = [name for name in fields if _NAMES.search(str(name))]
    chosen = preferred if len(preferred) == 1 else fields
    if len(chosen) != 1:
        said = (
            f"it could be {listed(chosen, 8)}" if chosen else f"none of {listed(columns, 8) or 'no fields'} has classes"
        )
        return Labelled(
            questions=[Question(f"which field of {path} is the label? {said.capitalize()}; describe labels")]
        )
    name = str(chosen[0])
    kind, values = _kind(frame[name], name), sorted({*frame[name].dropna().tolist()}, key=str)
    found = Labelled({"table" if table else "vector": path.as_posix(), "field": name})
    found.comments["field"] = f"the only field of {len(columns)} that can be meant, of {len(frame)} features"
    if preferred == chosen and len(fields) > 1:
        found.comments["field"] = f"by its name, of {listed(fields, 8)}"
    if kind == "quantity":
        found.table["kind"] = "quantity"
        found.comments["kind"] = "numbers with fractions"
    else:
        found.comments["field"] += f"; {len(values)} classes: {listed(values, 8)}"
    if table and {"x", "y"} <= {str(column).lower() for column in frame.columns}:
        if _largest(frame[[c for c in frame.columns if str(c).lower() in ("x", "y")]]) <= 180:
            found.table["crs"], found.comments["crs"] = "EPSG:4326", "x and y are within -180..180"
        else:
            found.questions.append(Question(f"the CRS of x and y in {path}? Write it as crs, e.g. EPSG:32631"))
    return found


def _kind(values: Any, name: str) -> str:
    """``classes``, ``quantity``, or nothing for what identifies a feature or is no label."""
    known = values.dropna()
    if not len(known) or _IDENTITY.search(name) or any(isinstance(value, dict | list) for value in known):
        return ""
    different = int(known.nunique())
    if known.dtype.kind == "f" and not bool((known == known.round()).all()):
        return "quantity"
    few = different <= _CODES and (different < len(known) or len(known) <= 3)
    return "classes" if few and different > 1 and known.dtype.kind not in "M" else ""


def _largest(coordinates: Any) -> float:
    """Of those that are numbers; the reader refuses the others."""
    import pandas

    found = coordinates.apply(pandas.to_numeric, errors="coerce").abs().max().max()
    return float(found) if np.isfinite(found) else float("inf")


def _layer(path: Path) -> tuple[Any, list[str]]:
    import pyogrio

    with decoding(path):
        try:
            layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
            frame = pyogrio.read_dataframe(path, read_geometry=False, max_features=_ROWS, layer=layers[0])
        except pyogrio.errors.DataSourceError as error:
            raise ValueError(f"{path}: cannot be read as a vector file ({error}); copy or export it again") from error
    return frame, layers


def _table(path: Path) -> tuple[Any, list[str]]:
    import pandas

    with decoding(path):
        frame = pandas.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", nrows=_ROWS)
    columns = {str(column).lower() for column in frame.columns}
    return (frame, []) if any(set(pair) <= columns for pair in _PAIRS) else (None, [])
