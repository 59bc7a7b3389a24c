"""Points and polygons of labels, read from a vector file or a table, and checked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..files import decoding, reading
from .placed import TableLabels, VectorLabels
from .years import years_of

__all__ = ["TABLES", "VECTORS", "Features", "read_features"]

VECTORS = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet")
TABLES = (".csv", ".tsv", ".parquet")
_PAIRS = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"))
_DEGREES = _PAIRS[1:]
_POLYGONS = ("Polygon", "MultiPolygon")
_USED = ("Point", "MultiPoint", *_POLYGONS)


@dataclass
class Features:
    """
    Attributes:
        path: of the file.
        crs: what pyproj knows of the coordinates.
        geometries: (n,) points and polygons of shapely, in two dimensions.
        values: (n,) of the field: a pandas Series.
        remarks: what was left out or mended, by what it is about.
        years: that a column tells, by its name.
    """

    path: Path
    crs: Any
    geometries: np.ndarray
    values: Any
    remarks: dict[str, str] = field(default_factory=dict)
    years: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.geometries)

    def only(self, kept: np.ndarray) -> Features:
        """Some of them, by a mask of bool."""
        return Features(self.path, self.crs, self.geometries[kept], self.values[kept], self.remarks, self.years)


def read_features(labels: VectorLabels | TableLabels, folder: Path) -> Features:
    """Points and polygons with the values of one field; what has no geometry is left out and counted.

    Raises:
        ValueError: no such file, layer, field or column, no CRS, nothing in the file, lines, or a package is missing.
    """
    path = folder / labels.file
    known = VECTORS if isinstance(labels, VectorLabels) else TABLES
    if path.suffix.lower() not in known:
        raise ValueError(f"{path}: labels are read from {', '.join(known)} files, not {path.suffix!r}")
    if not path.exists():
        raise ValueError(f"{path}: no such file of labels")
    try:
        import geopandas  # noqa: F401

        frame = _vectors(path, labels) if isinstance(labels, VectorLabels) else _points(path, labels)
    except ImportError as error:
        raise ValueError(
            f"{path}: labels of points and polygons need the package {error.name or error}: pip install "
            "'eo-fusion[vector]'"
        ) from error
    years = years_of(frame.drop(columns=frame.geometry.name), labels.field)
    return _usable(Features(path, frame.crs, np.asarray(frame.geometry.values), frame[labels.field], years=years))


def _vectors(path: Path, labels: VectorLabels) -> Any:
    """A GeoDataFrame with the field and a CRS."""
    import geopandas
    import pyogrio

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet

        if b"geo" not in (_opened(path, lambda: pyarrow.parquet.read_schema(path)).metadata or {}):
            raise ValueError(f"{path}: is no GeoParquet; give a table of points as table:")
        frame = _opened(path, lambda: geopandas.read_parquet(path))
    else:
        layers = [str(name) for name in _opened(path, lambda: pyogrio.list_layers(path))[:, 0]]
        if labels.layer is None and len(layers) > 1:
            raise ValueError(f"{path}: has {len(layers)} layers, {', '.join(layers)}; say which as layer: {layers[0]}")
        if labels.layer is not None and labels.layer not in layers:
            raise ValueError(f"{path}: no layer {labels.layer!r}; it has {', '.join(layers)}")
        frame = _opened(path, lambda: geopandas.read_file(path, layer=labels.layer))
    if not len(frame):
        raise ValueError(f"{path}: holds no feature")
    if not isinstance(frame, geopandas.GeoDataFrame):
        raise ValueError(f"{path}: its features have no geometry; give a table of points as table:")
    _require(path, "field", labels.field, [name for name in frame.columns if name != frame.geometry.name])
    if labels.crs is None and frame.crs is None:
        raise ValueError(f"{path}: does not say its CRS; give it, e.g. crs: EPSG:4326 in the labels of the description")
    if labels.crs is None:
        return frame
    given = _known_crs(path, labels.crs)
    if frame.crs is not None and not frame.crs.equals(given, ignore_axis_order=True):
        raise ValueError(
            f"{path}: says its CRS is {_name(frame.crs)}, the description {labels.crs}; leave out the wrong one"
        )
    return frame.set_crs(given, allow_override=True)


def _opened(path: Path, read: Callable[[], Any]) -> Any:
    """What a library reads; its own kinds of errors are those of a damaged file."""
    with decoding(path):
        return read()


def _points(path: Path, labels: TableLabels) -> Any:
    """A GeoDataFrame of the rows that have coordinates."""
    import geopandas
    import pandas as pd

    if path.suffix.lower() == ".parquet":
        import pyarrow  # noqa: F401

        frame = _opened(path, lambda: pd.read_parquet(path))
    else:
        with reading(path), path.open(encoding="utf-8-sig") as file:
            head = file.readline()
        by = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
        frame = _opened(path, lambda: pd.read_csv(path, sep=by, encoding="utf-8-sig", skipinitialspace=True))
    if not len(frame):
        raise ValueError(f"{path}: holds no row")
    frame.columns = [str(name) for name in frame.columns]
    _require(path, "field", labels.field, list(frame.columns))
    x, y = _columns(path, labels, list(frame.columns))
    degrees = (x.lower(), y.lower()) in _DEGREES
    if labels.crs is None and not degrees:
        raise ValueError(
            f"{path}: the CRS of columns {x} and {y} is not known; give it, e.g. crs: EPSG:32631 in the labels"
        )
    crs = _known_crs(path, "EPSG:4326" if labels.crs is None else labels.crs)
    coordinates = []
    for name in (x, y):
        numbers = pd.to_numeric(frame[name], errors="coerce")
        wrong = frame[name][numbers.isna() & frame[name].notna()]
        if len(wrong):
            raise ValueError(
                f"{path}: column {name} holds {len(wrong)} values that are no number, e.g. {wrong.iloc[0]}"
            )
        coordinates.append(numbers.to_numpy(dtype=float))
    if crs.is_geographic and np.nanmax(np.abs(coordinates[1])) > 90:
        raise ValueError(
            f"{path}: {y} reaches {np.nanmax(np.abs(coordinates[1])):g}, beyond 90 degrees; are x and y swapped, or is "
            "the CRS another one?"
        )
    there = np.isfinite(coordinates).all(axis=0)
    points = geopandas.points_from_xy(*coordinates)
    return geopandas.GeoDataFrame(frame, geometry=np.where(there, points, None), crs=crs)


def _columns(path: Path, labels: TableLabels, there: list[str]) -> tuple[str, str]:
    if labels.x is not None and labels.y is not None:
        for key, name in (("x", labels.x), ("y", labels.y)):
            _require(path, f"column for {key},", name, there)
        return labels.x, labels.y
    lower = {name.lower(): name for name in there}
    found = [(lower[x], lower[y]) for x, y in _PAIRS if x in lower and y in lower]
    if len(found) != 1:
        which = " and ".join("/".join(pair) for pair in found) or ", ".join(there)
        raise ValueError(f"{path}: has columns {which}; say which hold the coordinates as x: and y:")
    return found[0]


def _require(path: Path, what: str, name: str, there: list[str]) -> None:
    if name not in there:
        raise ValueError(f"{path}: no {what} {name!r}; it has {', '.join(there) or 'none'}")


def _known_crs(path: Path, given: str | int) -> Any:
    import pyproj
    from pyproj.exceptions import CRSError

    try:
        return pyproj.CRS.from_user_input(given)
    except CRSError as error:
        raise ValueError(f"{path}: crs: {given} is no coordinate reference system ({error})") from error


def _name(crs: Any) -> str:
    return str(crs.to_string())


def _usable(features: Features) -> Features:
    """Without empty geometries, invalid ones mended; both are counted.

    Raises:
        ValueError: lines, or nothing is left.
    """
    import shapely

    name = features.path.name
    missing = shapely.is_missing(features.geometries) | shapely.is_empty(features.geometries)
    if missing.any():
        features.remarks["missing geometry"] = (
            f"labels: {missing.sum()} of {len(features)} features of {name} have no geometry and are left out"
        )
    features = features.only(~missing)
    kinds = Counter(str(geometry.geom_type) for geometry in features.geometries)
    unusable = [f"{count} {kind}" for kind, count in sorted(kinds.items()) if kind not in _USED]
    if unusable:
        raise ValueError(
            f"{features.path}: {', '.join(unusable)} of {len(features)} features; labels are points and polygons. Take "
            "these out, or make polygons of them (buffer)"
        )
    features.geometries = shapely.force_2d(features.geometries)
    polygons = np.isin(shapely.get_type_id(features.geometries), (3, 6))
    invalid = polygons & ~shapely.is_valid(features.geometries)
    if invalid.any():
        mended = [_mended(geometry) for geometry in features.geometries[invalid]]
        features.geometries[invalid] = mended
        lost = sum(geometry.is_empty for geometry in mended)
        features.remarks["invalid geometry"] = (
            f"labels: {invalid.sum()} of {len(features)} features of {name} had an invalid geometry (e.g. an outline "
            "that crosses itself), which was mended" + (f"; {lost} of them have no area" if lost else "")
        )
        features = features.only(~shapely.is_empty(features.geometries))
    if not len(features):
        raise ValueError(f"{features.path}: no feature has a geometry")
    return features


def _mended(geometry: Any) -> Any:
    """The areas of what ``make_valid`` makes of a polygon, which may have lines and points too."""
    import shapely

    parts = shapely.get_parts(shapely.make_valid(geometry))
    parts = shapely.get_parts(parts)  # a collection holds multipolygons
    return shapely.union_all([part for part in parts if part.geom_type in _POLYGONS])
