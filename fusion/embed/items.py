"""The STAC items of maps of embeddings and of predictions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .cog import Sheet
from .formats.about import About
from .formats.geoparquet import Table
from .formats.stac import Asset, classes_of, write_item
from .mosaic import Canvas
from .predicted import PredictedMap
from .raster import Dtype, band_names, file_tags

__all__ = ["write_embedding_item", "write_prediction_item", "write_table_item"]


def write_embedding_item(path: Path, canvas: Canvas, dim: int, dtype: Dtype, about: About) -> Path:
    """The item of a map of embeddings, of which the map must be there; returns its file."""
    asset = _raster(path, canvas, dtype, -128 if dtype == "int8" else "nan", band_names(dim))
    return write_item(
        path,
        {"embeddings": asset},
        crs=canvas.crs,
        shape=canvas.shape,
        transform=canvas.transform,
        first=about.first,
        last=about.last,
        properties=_properties(dim, dtype, about),
    )


def write_table_item(path: Path, table: Table, dim: int, dtype: Dtype, about: About) -> Path:
    """The item of a table of patches, which must be there; returns its file."""
    return write_item(
        path,
        {"embeddings": Asset(path, more={"data_type": dtype})},
        crs=table.crs,
        bounds=table.bounds,
        first=about.first,
        last=about.last,
        properties=_properties(dim, dtype, about),
    )


def write_prediction_item(
    written: PredictedMap,
    sheets: Mapping[str, Sheet],
    files: Mapping[str, Path],
    canvas: Canvas,
    span: tuple[str, str] | None,
) -> Path:
    """The item of a map of predictions with what lies beside it; returns its file.

    Args:
        span: first and last date of the series that it was made of; None where these have no dates.
    """
    assets = {}
    for name, sheet in sheets.items():
        nodata = "nan" if sheet.dtype == "float32" else sheet.nodata
        more = classes_of(sheet.categories) if sheet.categories else {}
        more |= {"raster:scale": sheet.scale} if sheet.scale != 1 else {}
        assets[name] = _raster(files[name], canvas, sheet.dtype, nodata, sheet.bands, more)
        style = files[name].with_suffix(".qml")
        if style.is_file():
            assets[f"{name}_style"] = Asset(style, ("metadata",), "style for QGIS")
    if written.preview is not None and written.preview.is_file():
        assets["thumbnail"] = Asset(written.preview, ("thumbnail",), more={"proj:code": None})
    tags = sheets["prediction"].tags
    return write_item(
        written.path,
        assets,
        crs=canvas.crs,
        shape=canvas.shape,
        transform=canvas.transform,
        first=None if span is None else span[0],
        last=None if span is None else span[1],
        properties={f"fusion:{name.removeprefix('FUSION_').lower()}": value for name, value in tags.items()},
    )


def _raster(
    path: Path, canvas: Canvas, dtype: str, nodata: Any, bands: tuple[str, ...], more: Mapping[str, Any] | None = None
) -> Asset:
    resolution = {"raster:spatial_resolution": abs(canvas.transform.a)} if _in_metres(canvas.crs) else {}
    known = {"data_type": dtype, "nodata": nodata, "raster:sampling": "area", **resolution, **(more or {})}
    return Asset(path, bands=bands, more=known)


def _in_metres(crs: str) -> bool:
    from rasterio.crs import CRS

    known = CRS.from_user_input(crs) if crs else None
    return known is not None and known.is_projected and known.linear_units_factor[1] == 1


def _properties(dim: int, dtype: Dtype, about: About) -> dict[str, Any]:
    fields = about.fields(dim, dtype)
    return {
        "gsd": fields["gsd"],
        "license": about.licence,
        "emb:quantization": _quantization(fields.get("quantization")),
        "emb:runtime_parameters": {**fields, **file_tags(dtype, about.own_tags())},
    }


def _quantization(known: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """As the extension for embeddings has it: its link is one of STAC."""
    if known is None:
        return None
    return {**known, "link": {"rel": "about", "href": known["link"], "type": "text/html"}}
