"""Where the arrays of a scene lie, as their file or the description says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .containers import Arrays, Variable, text
from .conventions import Conventions
from .grid import Grid

__all__ = ["AXIS_NAMES", "Finder", "check_axes", "locate"]

_ROWS, _COLUMNS = (
    ("y", "lat", "latitude", "northing", "row", "rows"),
    ("x", "lon", "longitude", "easting", "col", "column", "columns"),
)
AXIS_NAMES = {
    **dict.fromkeys(_ROWS, "y"),
    **dict.fromkeys(_COLUMNS, "x"),
    **dict.fromkeys(("time", "t", "date", "dates"), "time"),
    **dict.fromkeys(("band", "bands", "channel", "channels", "wavelength"), "band"),
}


def check_axes(variable: Variable, axes: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the file names its axes, and the description names them in another order.
    """
    named = [AXIS_NAMES.get(name.lower()) for name in variable.dimensions]
    if len(named) == len(axes) and any(own is not None and own != axis for own, axis in zip(named, axes, strict=True)):
        right = [own or name for own, name in zip(named, variable.dimensions, strict=True)]
        raise ValueError(
            f"{variable.path}: the axes of {variable.name!r} are ({', '.join(variable.dimensions)}) by the file and "
            f"({', '.join(axes)}) by the description; write axes: [{', '.join(right)}]"
        )


def locate(
    keys: Mapping[str, Any], variable: Variable, axes: Sequence[str], arrays: Arrays, resolution: float, *, first: bool
) -> tuple[Grid | None, bool]:
    """The place of a variable, None where nothing says it, and whether row 0 is south.

    Args:
        keys: ``georeference`` of the description. Without any, coordinates that the file names as its axes count.
        first: it is the modality by which the scene is placed: coordinates must fit it pixel for pixel. Others may
            have coarser or finer pixels of the same ground.

    Raises:
        ValueError: keys that say no place, or coordinates that do not fit the array.
    """
    sizes = dict(zip(axes, variable.shape, strict=True))
    if "y" not in sizes:
        return None, False
    finder = Finder(variable, arrays)
    cf = bool(keys.get("cf"))
    named = {key: value for key, value in keys.items() if key != "cf"}
    if isinstance(named.get("epsg"), str) and not finder.has(named["epsg"]):
        code = re.fullmatch(r"(?:epsg:)?\s*(\d+)", named["epsg"].strip(), re.IGNORECASE)
        named["epsg"] = named["epsg"] if code is None else int(code[1])
    if named and not cf and set(named) not in ({"epsg", "bounds"}, {"epsg", "x", "y"}):
        raise ValueError(f"georeference: epsg with bounds, or epsg with x and y wanted, {', '.join(named)} given")
    if not first and any(isinstance(value, str) and not finder.has(value) for value in named.values()):
        named = {}  # a file of its own, which may have coordinates of its own
    if "bounds" in named:
        return _of_bounds(finder.epsg(named["epsg"]), finder.numbers(named["bounds"]), sizes, resolution)
    dimensions = dict(zip(axes, variable.dimensions, strict=False))
    own = tuple(named.get(axis) or dimensions.get(axis) or (axis if cf else "") for axis in ("x", "y"))
    if not named and not all(isinstance(name, str) and name and finder.has(name) for name in own):
        if cf and first:
            raise ValueError(f"{variable.path}: georeference cf: no coordinates {own[0]!r} and {own[1]!r} in the file")
        return None, False
    crs = finder.epsg(named["epsg"]) if "epsg" in named else finder.crs(own)
    if cf and first and not crs:
        raise ValueError(
            f"{variable.path}: georeference cf: no spatial_ref or crs with crs_wkt; give epsg, x and y instead"
        )
    x, y = (finder.numbers(name) * (finder.kilometres(name) if crs else 1) for name in own)
    if not named and not crs and (_counts(x) or _counts(y)):
        return None, False  # numbers of pixels, no coordinates
    return _of_coordinates(variable, crs, x, y, sizes, first)


def _of_bounds(crs: str, bounds: np.ndarray, sizes: Mapping[str, int], resolution: float) -> tuple[Grid, bool]:
    left, bottom, right, top = (float(v) for v in bounds)
    width, height = (
        # The last pixel may reach over the bounds: 650 m are 33 pixels of 20 m.
        resolution if abs(extent - resolution * count) < 0.999 * resolution else extent / count
        for extent, count in ((right - left, sizes["x"]), (top - bottom, sizes["y"]))
    )
    return Grid(crs, left, top, width, height, sizes["y"], sizes["x"]), False


def _of_coordinates(
    variable: Variable, crs: str, x: np.ndarray, y: np.ndarray, sizes: Mapping[str, int], first: bool
) -> tuple[Grid, bool]:
    if x.ndim != 1 or y.ndim != 1:
        raise ValueError(
            f"{variable.path}: coordinates of {variable.name!r} have shapes {y.shape} and {x.shape}, one number a row "
            "and one a column wanted: pixels of a swath or a turned grid are to be resampled to a grid first ("
            "gdalwarp -geoloc, xESMF, pyresample)"
        )
    fits = (len(y), len(x)) == (sizes["y"], sizes["x"])
    if min(len(x), len(y)) < 2 or (first and not fits):
        raise ValueError(
            f"{variable.path}: {len(y)} y and {len(x)} x for {sizes['y']} x {sizes['x']} pixels of {variable.name!r}"
        )
    for name, values in (("x", x), ("y", y)):
        even = np.linspace(values[0], values[-1], len(values))
        # Degrees in float32 are rounded to 0.4 m of ground, which is no unevenness.
        rounded = np.array_equal(values, values.astype(np.float32)) * 2**-23 * abs(values).max()
        step = abs(values[-1] - values[0]) / (len(values) - 1)
        if not np.isfinite(values).all() or not step or abs(values - even).max() > 0.05 * step + rounded:
            raise ValueError(
                f"{variable.path}: {name} of {variable.name!r} is not evenly spaced; resample it to a grid"
            )
    width, height = float(x[-1] - x[0]) / (len(x) - 1), float(abs(y[-1] - y[0])) / (len(y) - 1)
    if width <= 0:
        raise ValueError(f"{variable.path}: x runs west; turn the arrays so that columns run east")
    if crs and not _projected(crs) and x[0] >= 180:
        x = x - 360  # longitudes of 0..360
    left, top = float(x[0]) - width / 2, float(max(y[0], y[-1])) + height / 2
    ratios = [_ratio(len(values), sizes[axis]) for values, axis in ((x, "x"), (y, "y"))]
    grid = Grid(crs, left, top, width * ratios[0], height * ratios[1], sizes["y"], sizes["x"])
    return grid, bool(y[-1] > y[0])


def _projected(crs: str) -> bool:
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(crs).is_projected)


def _ratio(coordinates: int, pixels: int) -> float:
    """Across how many coordinates a pixel is: 65 coordinates are 33 pixels of two."""
    ratio = coordinates / pixels
    near = round(ratio) if ratio >= 1 else 1 / round(1 / ratio)
    return near if abs(near * pixels - coordinates) < max(near, 1) else ratio


def _counts(values: np.ndarray) -> bool:
    """Whether coordinates are 0, 1, 2, ..."""
    return bool(np.array_equal(values, values[0] + np.arange(len(values))) and values[0] in (0, 0.5, 1))


class Finder:
    """Looks for coordinates beside a variable: in its group, then in those above."""

    def __init__(self, variable: Variable, arrays: Arrays) -> None:
        self.variable, self.arrays = variable, arrays

    def _name(self, name: str) -> str | None:
        group = self.variable.name.rpartition("/")[0]
        while True:
            candidate = f"{group}/{name}" if group else name
            if self.arrays.has(self.variable.path, candidate):
                return candidate
            if not group:
                return None
            group = group.rpartition("/")[0]

    def has(self, name: str) -> bool:
        return self._name(name) is not None

    def array(self, name: str) -> np.ndarray:
        """A variable by its name, as stored."""
        return self.arrays.get(self.variable.path, self._name(name) or name)[...]

    def numbers(self, given: Any) -> np.ndarray:
        """A variable by its name, unpacked, or the numbers that were given."""
        if not isinstance(given, str):
            return np.asarray(given, dtype=float)
        found = self.arrays.get(self.variable.path, self._name(given) or given)
        if found.dtype.kind not in "iuf":
            raise ValueError(f"{self.variable.path}: {given!r} holds {found.dtype}, coordinates are numbers")
        return Conventions.of_attributes(found.attributes, found.dtype).measured(found[...])

    def _attributes(self, name: str) -> Mapping[str, Any]:
        found = self._name(name)
        return {} if found is None else self.arrays.get(self.variable.path, found).attributes

    def crs(self, coordinates: Sequence[str]) -> str:
        """By the CF conventions; WGS 84 for degrees of latitude and longitude; empty where nothing says it."""
        mapping = text(self.variable.attributes.get("grid_mapping", "")).split(":")[0].split()
        for name in (*mapping[:1], "spatial_ref", "crs"):
            attributes = self._attributes(name)
            for key in ("crs_wkt", "spatial_ref", "epsg_code", "epsg"):
                if key in attributes:
                    return self._known(attributes[key])
        if "crs" in self.variable.attributes:  # as older versions of xarray's readers, and stackstac, write it
            return self._known(self.variable.attributes["crs"])
        for name in ("epsg", "proj:epsg", "proj:code"):
            if self.has(name) and self.array(name).size == 1:
                return self._known(self.array(name).reshape(-1)[0])
        units = {str(self._attributes(name).get("units", "")).lower() for name in coordinates}
        degrees = {"degrees_north", "degrees_east"} <= units or coordinates in (
            ("lon", "lat"),
            ("longitude", "latitude"),
        )
        return "EPSG:4326" if degrees else ""

    def epsg(self, given: Any) -> str:
        """By a number, or a variable that holds it, also as text."""
        return self._known(self.array(given).reshape(-1)[0] if isinstance(given, str) else given)

    def _known(self, given: Any) -> str:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError

        said = text(given)
        try:
            if said.removesuffix(".0").isdigit():
                return f"EPSG:{int(float(said))}"
            return str(CRS.from_user_input(said.removeprefix("+init=")).to_string())
        except CRSError as error:
            raise ValueError(
                f"{self.variable.path}: {said[:80]!r} is no coordinate reference system; give epsg in georeference"
            ) from error

    def kilometres(self, name: Any) -> float:
        """Metres in the unit of coordinates: 1000 where they are said to be kilometres."""
        units = text(self._attributes(name).get("units", "")).lower() if isinstance(name, str) else ""
        return 1000.0 if units in ("km", "kilometer", "kilometre", "kilometers", "kilometres") else 1.0
