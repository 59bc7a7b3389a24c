"""Where a scene lies, as its file or description says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..tiles import Geo
from .layer import Layer
from .stores import Arrays, TiffStack, text

__all__ = ["locate"]


def locate(keys: Mapping[str, Any], layer: Layer, arrays: Arrays) -> tuple[Geo | None, bool]:
    """The place of a grid of 1 m (by the description's metres) at the upper left corner of a layer, and whether row 0
    is south.

    Args:
        keys: ``georeference`` of the description; a GeoTIFF needs none.

    Raises:
        ValueError: keys that say no place, a rotated raster, or pixels of another size than the description says.
    """
    if isinstance(layer.array, TiffStack):
        if layer.array.crs is None:
            return None, False
        a, b, c, d, e, f = layer.array.transform
        if b or d or a <= 0 or e >= 0:
            raise ValueError(f"{layer.path}: rotated or not north up ({layer.array.transform}); warp it first")
        crs, (left, top), (width, height), flipped = layer.array.crs, (c, f), (a, -e), False
    elif not keys:
        return None, False
    else:
        crs, (left, top), (width, height), flipped = _from_variables(dict(keys), layer, arrays)
    _check_size(crs, width, height, layer)
    metre = layer.resolution
    return Geo((width / metre, 0.0, left, 0.0, -height / metre, top), crs), flipped


def _from_variables(
    keys: dict[str, Any], layer: Layer, arrays: Arrays
) -> tuple[str, tuple[float, float], tuple[float, float], bool]:
    """CRS, left and top, width and height of a pixel, and whether row 0 is south."""

    def value(key: str) -> np.ndarray:
        given = keys[key]
        return np.asarray(arrays.get(layer.path, given)[...] if isinstance(given, str) else given, dtype=float)

    if keys.pop("cf", False):
        crs, keys = _cf(layer, arrays), {"x": "x", "y": "y"} | keys
    elif set(keys) in ({"epsg", "bounds"}, {"epsg", "x", "y"}):
        crs = f"EPSG:{int(value('epsg'))}"
    else:
        raise ValueError(f"georeference: epsg with bounds, or epsg with x and y wanted, {', '.join(keys)} given")
    shape = dict(zip(layer.source.axes, layer.array.shape, strict=True))
    if "bounds" in keys:
        left, bottom, right, top = (float(v) for v in value("bounds"))
        return crs, (left, top), ((right - left) / shape["x"], (top - bottom) / shape["y"]), False
    x, y = value("x"), value("y")
    if (len(x), len(y)) != (shape["x"], shape["y"]) or min(len(x), len(y)) < 2:
        raise ValueError(
            f"{layer.path}: {len(y)} y and {len(x)} x for {shape['y']} x {shape['x']} pixels of "
            f"{layer.source.variable!r}"
        )
    width, height = float(x[1] - x[0]), float(abs(y[1] - y[0]))
    return crs, (float(x[0]) - width / 2, float(max(y[0], y[-1])) + height / 2), (width, height), bool(y[-1] > y[0])


def _cf(layer: Layer, arrays: Arrays) -> str:
    """CRS by the CF conventions."""
    from rasterio.crs import CRS

    for name in ("spatial_ref", "crs"):
        if arrays.has(layer.path, name):
            found = arrays.attributes(layer.path, name).get("crs_wkt")
            if found is not None:
                return str(CRS.from_wkt(text(found)).to_string())
    raise ValueError(f"{layer.path}: georeference cf: no spatial_ref or crs with crs_wkt; give epsg, x and y instead")


def _check_size(crs: str, width: float, height: float, layer: Layer) -> None:
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        known = CRS.from_user_input(crs)
    except CRSError as error:
        raise ValueError(f"{layer.path}: {crs} is no coordinate reference system ({error})") from error
    if width <= 0:
        raise ValueError(f"{layer.path}: x runs west; turn the arrays so that columns run east")
    if not known.is_projected:  # degrees: the description's metres are nominal
        return
    metres = known.linear_units_factor[1]
    for side in (width, height):
        if abs(side * metres / layer.resolution - 1) > 0.01:
            raise ValueError(
                f"{layer.path}: pixels are {width * metres:g} x {height * metres:g} m, the description says "
                f"{layer.resolution:g} m"
            )
