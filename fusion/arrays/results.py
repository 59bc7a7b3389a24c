"""Computed values as xarray: with the coordinates, the CRS and the orientation of what was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.folder.grid import Grid
from ..data.folder.opening import Tiles
from ..embed.sheets import NO_CLASS
from ..training.conformal import ConformalInterval
from .given import Given

if TYPE_CHECKING:
    import xarray

__all__ = ["as_array", "as_predictions"]


def as_array(
    values: Any, axes: Sequence[str], like: Given, tiles: Tiles | None, cell: tuple[float, float], name: str
) -> xarray.DataArray:
    """(..., y, x), north up, as an array with the coordinates of the ground.

    Args:
        values: of NumPy or Dask.
        axes: before y and x.
        like: whose axes, CRS and orientation the result has.
        tiles: where the arrays lie; None where unknown.
        cell: height and width of a row and a column in metres.
    """
    import xarray

    y, x = like.dimension("y"), like.dimension("x")
    height, width = values.shape[-2:]
    coords: dict[str, Any] = {str(n): c for n, c in like.dataset.coords.items() if c.ndim == 0 and n != "time"}
    own = y in like.dataset.coords and x in like.dataset.coords
    if own and cell == (like.modality.resolution,) * 2:  # those of the pixels, so that both align
        rows, columns = like.dataset[y], like.dataset[x]
        rows = rows[::-1] if like.south_up else rows
        coords |= {y: rows[:height], x: columns[:width]}
    if own and tiles is not None:
        grid = replace(tiles.grid.at(cell[0], tiles.resolution), height=height, width=width)
        coords = _centres(like, grid, y, x) | coords | _spatial_ref(like, grid)
    found = xarray.DataArray(values, coords, (*axes, y, x), name=name)
    if "spatial_ref" in coords:
        found = found.assign_attrs(grid_mapping="spatial_ref")
    return found.isel({y: slice(None, None, -1)}) if like.south_up else found


def _centres(like: Given, grid: Grid, y: str, x: str) -> dict[str, Any]:
    """Of the cells, north up."""
    rows = grid.top - (np.arange(grid.height) + 0.5) * grid.pixel_height
    columns = grid.left + (np.arange(grid.width) + 0.5) * grid.pixel_width
    return {y: (y, rows, like.dataset[y].attrs), x: (x, columns, like.dataset[x].attrs)}


def _spatial_ref(like: Given, grid: Grid) -> dict[str, Any]:
    """The CRS as GDAL and rioxarray read it, with the transform of the result."""
    if not grid.crs:
        return {}
    top, height = grid.top, -grid.pixel_height
    if like.south_up:
        top, height = grid.bottom, grid.pixel_height
    text = {"GeoTransform": f"{grid.left!r} {grid.pixel_width!r} 0.0 {top!r} 0.0 {height!r}"}
    given = like.dataset.coords.get("spatial_ref")
    own = {} if given is None else {k: v for k, v in given.attrs.items() if k != "GeoTransform"}
    wkt = grid.known_crs.to_wkt()
    return {"spatial_ref": ((), 0, {"crs_wkt": wkt, "spatial_ref": wkt} | own | text)}


def as_predictions(
    values: xarray.DataArray, task: str, classes: Sequence[str], intervals: Sequence[ConformalInterval]
) -> xarray.Dataset:
    """``class`` and ``probability``, or each quantity by its name, of an array (label, y, x)."""
    import xarray

    if task == "regression":
        found = {}
        for k, name in enumerate(classes):
            value = values.isel(label=k, drop=True)
            found[name] = value
            if intervals:
                half = xarray.apply_ufunc(
                    intervals[k].half_width, value, dask="parallelized", output_dtypes=[np.float32]
                )
                found |= {f"{name}_lower": value - half, f"{name}_upper": value + half}
        return xarray.Dataset(found)
    known = values.notnull().all("label")
    if task == "multiclass":
        codes = values.fillna(0).argmax("label").where(known, NO_CLASS).astype(np.uint8)
        listed: Mapping[str, Any] = {"flag_values": list(range(len(classes))), "flag_meanings": _meanings(classes)}
    else:
        codes = (values > 0.5).where(known, NO_CLASS).astype(np.uint8)
        listed = {"flag_values": [0, 1], "flag_meanings": "absent present"}
    codes.attrs = {**values.attrs, **listed}
    codes.encoding = {"_FillValue": NO_CLASS}
    return xarray.Dataset({"class": codes, "probability": values})


def _meanings(classes: Sequence[str]) -> str:
    """As CF wants them: words without blanks, one after another."""
    return " ".join("_".join(name.split()) for name in classes)
