"""How a Zarr of this package is laid out: version 2, dimensions that xarray reads, dates and places by the CF
conventions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Geo

__all__ = ["TIME", "add_array", "axes_of", "georeference", "new_group"]

TIME = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}


def new_group(path: Path, attributes: Mapping[str, Any]) -> Any:
    """An empty Zarr group at ``path``; one that was there is replaced."""
    import zarr

    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs.update(dict(attributes))
    return root


def add_array(root: Any, name: str, values: np.ndarray, dimensions: Sequence[str], **attributes: Any) -> None:
    """A small array, in one chunk, with the names of its axes."""
    made = root.create_array(name, data=values, chunks=values.shape)
    made.attrs.update({"_ARRAY_DIMENSIONS": list(dimensions), **attributes})


def axes_of(size: tuple[int, int], geo: Geo | None) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """``y`` and ``x`` of the centres of pixels, with their attributes; rows and columns where the place is unknown."""
    a, _, west, _, e, north = geo.transform if geo else (1.0, 0, 0.0, 0, 1.0, 0.0)
    unit = "m" if geo else "pixel"
    return {
        name: (first + step * (np.arange(n) + 0.5), {"units": unit, "standard_name": f"projection_{name}_coordinate"})
        for name, first, step, n in (("y", north, e, size[0]), ("x", west, a, size[1]))
    }


def georeference(root: Any, geo: Geo) -> None:
    """``spatial_ref``, the variable that holds the CRS and the transform, as GDAL and rioxarray read it."""
    from rasterio.crs import CRS

    a, b, c, d, e, f = geo.transform
    text = {"GeoTransform": f"{c!r} {a!r} {b!r} {f!r} {d!r} {e!r}"}
    crs = {"crs_wkt": CRS.from_string(geo.crs).to_wkt(), "spatial_ref": geo.crs} if geo.crs else {}
    made = root.create_array("spatial_ref", shape=(), dtype="int64", fill_value=0)
    made.attrs.update({"_ARRAY_DIMENSIONS": [], **text, **crs})
