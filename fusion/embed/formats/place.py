"""Where the pixels of a raster lie, in the terms of the CF conventions."""

from __future__ import annotations

from typing import Any

import numpy as np
from affine import Affine

from ...data import Geo
from ..layout import axes_of

__all__ = ["coordinates", "north_up"]

Coordinate = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]  # dimensions, values, attributes


def coordinates(size: tuple[int, int], transform: Affine | None, crs: str) -> dict[str, Coordinate]:
    """``y`` and ``x`` of the centres of pixels and, where the place is known, ``spatial_ref`` with CRS and transform.

    Args:
        size: rows and columns.
        transform: from (column, row) to (x, y), north up; None where unknown, then x and y count pixels.
        crs: anything that rasterio understands; empty where unknown.
    """
    from rasterio.crs import CRS

    if transform is None:
        return {name: ((name,), values, about) for name, (values, about) in axes_of(size, None).items()}
    a, b, c, d, e, f = tuple(transform)[:6]
    known = CRS.from_user_input(crs) if crs else None
    found: dict[str, Coordinate] = {}
    for name, (centres, about) in axes_of(size, Geo((a, b, c, d, e, f), crs)).items():
        if known is not None and known.is_geographic:
            word, unit = {"x": ("longitude", "degrees_east"), "y": ("latitude", "degrees_north")}[name]
            about = {"units": unit, "standard_name": word}
        found[name] = ((name,), centres, {**about, "axis": name.upper()})
    place: dict[str, Any] = {"GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}
    if known is not None:
        place |= {"crs_wkt": known.to_wkt(), "spatial_ref": known.to_wkt()}
    found["spatial_ref"] = ((), np.zeros((), dtype=np.int64), place)
    return found


def north_up(transform: Affine, rows: int, what: str) -> tuple[Affine, bool]:
    """The transform of the raster whose first row is the northern one, and whether its rows must be turned over for it.

    Raises:
        ValueError: the raster is rotated or mirrored.
    """
    a, b, c, d, e, f = tuple(transform)[:6]
    if b or d or a <= 0 or e == 0:
        raise ValueError(
            f"{what}: its transform {(a, b, c, d, e, f)} is rotated or mirrored; warp it with gdalwarp first"
        )
    return (Affine(a, 0, c, 0, -e, f + e * rows), True) if e > 0 else (transform, False)
