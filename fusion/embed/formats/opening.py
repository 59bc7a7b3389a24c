"""Embeddings of any format as a data set of xarray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...data.files import reading
from ..codec import DECODE_FORMULA, undecodable
from ..raster import band_names, read_embeddings
from ..store import open_store
from .geoparquet import open_geoparquet
from .place import coordinates
from .rasters import open_raster
from .tessera import open_tessera
from .zarr_values import open_zarr

if TYPE_CHECKING:
    import xarray

__all__ = ["open_embeddings"]


def open_embeddings(path: str | Path, *, decoded: bool = True) -> xarray.Dataset:
    """Embeddings as an xarray data set with ``embedding``, names of features, and places.

    ============================================================  ===================================
    what                                                          ``embedding``
    ============================================================  ===================================
    a store of a context-aware model (``.zarr``)                  (time, feature, y, x)
    a map as Zarr 3 or GeoTIFF (``.zarr``, ``.tif``)              (feature, y, x)
    tiles without a place (``.npz``)                              (tile, feature, y, x)
    patches as GeoParquet (``.parquet``)                          (patch, feature)
    AlphaEarth's GeoTIFFs, see :mod:`~.formats.rasters`           (feature, y, x), rows from the north
    Tessera's tiles (``.npy``), see :mod:`~.formats.tessera`      (feature, y, x), rows from the north
    ============================================================  ===================================

    Values are read, and decoded, when they are used; NPZ, GeoParquet and the codes of a store of many dates at once.

    Args:
        decoded: float32, NaN where there is no data; ``False`` leaves what is stored, int8 codes where it is.

    Raises:
        ValueError: there is nothing, an unfinished store, something else than embeddings, or int8 numbers of which
            nothing says how they are decoded.
    """
    path = Path(path)
    if path.is_dir() and (path / "zarr.json").is_file():
        return _open_geozarr(path, decoded)
    if path.is_dir() or path.suffix == ".zarr":
        return open_store(path, decoded=decoded)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    with reading(path):
        if path.suffix == ".npz":
            return _open_npz(path)
        if path.suffix == ".parquet":
            return open_geoparquet(path, decoded)
        return (open_tessera if path.suffix == ".npy" else open_raster)(path, decoded)


def _open_geozarr(path: Path, decoded: bool) -> xarray.Dataset:
    data = open_zarr(path, decoded)
    if "embedding" not in data or data.embedding.dims != ("feature", "y", "x"):
        held = ", ".join(map(str, data.data_vars)) or "no array"
        raise ValueError(f"{path}: no map of embeddings; `embedding` (feature, y, x) is wanted, it has {held}")
    rule = data.embedding.attrs.get("decode")
    if decoded and data.embedding.encoding.get("dtype") == np.int8 and rule != DECODE_FORMULA:
        raise undecodable(path, f"its attribute decode is {rule!r}, not {DECODE_FORMULA!r}")
    return data.assign_coords(feature=np.array(band_names(data.embedding.shape[0])))


def _open_npz(path: Path) -> xarray.Dataset:
    import xarray

    found = read_embeddings(path)
    places = coordinates((found.values.shape[2], found.values.shape[3]), None, "")
    return xarray.Dataset(
        {"embedding": (("tile", "feature", "y", "x"), found.values)},
        {"tile": list(found.names), "feature": list(found.bands), **places},
        dict(found.tags),
    )
