"""Embeddings in GeoTIFFs, our own and AlphaEarth's, as lazy arrays."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data import opening
from ..codec import DECODE_FORMULA, NODATA, decode, undecodable
from .place import coordinates, north_up

if TYPE_CHECKING:
    import xarray

__all__ = ["ALPHAEARTH", "open_raster"]

# Bands of the published annual Satellite Embedding, https://developers.google.com/earth-engine/guides/aef_on_gcs_readme
ALPHAEARTH = tuple(f"A{k:02d}" for k in range(64))
_ATTRIBUTION = "The AlphaEarth Foundations Satellite Embedding dataset is produced by Google and Google DeepMind."


def open_raster(path: Path, decoded: bool) -> xarray.Dataset:
    """A raster as ``embedding`` (feature, y, x), north up, read where it is used.

    AlphaEarth's GeoTIFFs (Google Cloud Storage ``gs://alphaearth_foundations``, and the same files at
    https://source.coop/tge-labs/aef) have 64 bands A00 to A63 of int8, -128 where there is no data, and rows that run
    from south to north, which are turned over here. Their numbers v stand for sign(v) (v / 127.5)^2.

    Args:
        decoded: float32, NaN where there is no data; else the numbers as they are stored.

    Raises:
        ValueError: rotated, of a type that no embeddings have, or codes of which nobody says how to decode them.
    """
    import xarray

    from .lazy import lazy

    with opening.open_raster(path) as file:
        dtypes, count, size = set(file.dtypes), file.count, file.shape
        tags, names, nodata = file.tags(), file.descriptions, file.nodata
        crs = file.crs.to_wkt() if file.crs else ""
        placed = bool(crs) or not file.transform.is_identity
        transform, flipped = north_up(file.transform, size[0], str(path)) if placed else (None, False)
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64", "int8"}:
        raise ValueError(f"{path}: embeddings are float32 or int8, not {', '.join(sorted(dtypes))}")
    (stored,) = dtypes
    about: dict[str, Any] = dict(tags)
    if stored == "int8":
        alphaearth = names == ALPHAEARTH and nodata == NODATA
        if decoded and not alphaearth and tags.get("FUSION_DECODE") != DECODE_FORMULA:
            raise undecodable(
                path,
                f"its tag FUSION_DECODE is {tags.get('FUSION_DECODE')!r}, and it has not AlphaEarth's 64 bands A00 to "
                "A63 with no data -128",
            )
        about |= {"attribution": _ATTRIBUTION} if alphaearth else {}
    dtype = "float32" if decoded else stored
    features = [name or f"E{k:02d}" for k, name in enumerate(names)]
    read = partial(_read, path, size[0], flipped, decoded, nodata)
    return xarray.Dataset(
        {
            "embedding": (
                ("feature", "y", "x"),
                lazy((count, *size), dtype, read),
                {"long_name": "embedding", "units": "1", "grid_mapping": "spatial_ref"},
            )
        },
        {"feature": np.array(features), **coordinates(size, transform, crs)},
        about,
    )


def _read(
    path: Path, rows: int, flipped: bool, decoded: bool, nodata: float | None, window: tuple[slice, ...]
) -> np.ndarray:
    from rasterio.windows import Window

    features, ys, xs = window
    top = rows - ys.stop if flipped else ys.start
    with opening.open_raster(path) as file:  # anew each time: a file that is open belongs to one thread
        here = Window(xs.start, top, xs.stop - xs.start, ys.stop - ys.start)
        values = file.read(list(range(features.start + 1, features.stop + 1)), window=here)
    values = values[:, ::-1] if flipped else values
    if not decoded:
        return np.asarray(values)
    if values.dtype == np.int8:
        return decode(values)
    values = values.astype(np.float32)
    if nodata is not None:
        values[values == np.float32(nodata)] = np.nan
    values[~np.isfinite(values)] = np.nan
    return np.asarray(values)
