"""One map of embeddings as Zarr version 3 with the conventions of GeoZarr.

Sources:

* Zarr 3 and its codec ``sharding_indexed``: https://zarr-specs.readthedocs.io
* CF grid mappings (``spatial_ref`` with ``crs_wkt`` and ``GeoTransform``), which xarray, rioxarray and GDAL read:
  https://cfconventions.org
* the GeoZarr conventions ``proj:`` (https://github.com/zarr-conventions/proj) and ``spatial:``
  (https://github.com/zarr-conventions/spatial), which GDAL reads from 3.13 on, as it does shards.

``embedding`` is (feature, y, x), north up. A chunk holds all features of a square of pixels, since a vector is read as
a whole; 4 x 4 chunks lie in one file, a shard, so that a large map does not become millions of files while a reader
still asks for single chunks. A chunk is 8 MiB at most before compression (:func:`~.chunks.chunk_side`), a shard, which
is what a writer holds in memory, 128 MiB. A map of one chunk has no shards, so that programs without them read it, too.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from ... import __version__
from ...data.given import numbers
from ..codec import NODATA, Dtype, ErrorMeter, QuantizationError, as_stored, decoded
from ..raster import checked, file_tags
from .array_file import Windows
from .chunks import chunk_side, windows
from .place import coordinates
from .temporary import replacing_folder
from .zarr_checksum import seal, zstandard

__all__ = ["PROJ", "SPATIAL", "is_map", "require_free", "write_geozarr"]

PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}
_PER_SHARD = 4  # chunks per side


def write_geozarr(
    path: Path,
    values: Windows,
    transform: Affine,
    crs: str,
    dtype: Dtype,
    tags: Mapping[str, str],
    attributes: Mapping[str, Any] | None = None,
) -> QuantizationError:
    """Writes ``values`` (rows, columns, D; NaN = no data) shard by shard, and reads them back to state the error.

    ``float32`` keeps the vectors as they are; ``int8`` stores their direction (unit length), AlphaEarth's mapping.

    Args:
        transform: from (column, row) to (x, y), north up.
        crs: anything that rasterio understands; empty where unknown.
        tags: what made the map, as in a GeoTIFF.
        attributes: more of the group, e.g. of further conventions, whose entries of ``zarr_conventions`` are added.

    Raises:
        ValueError: what is at ``path`` is no map of embeddings, see :func:`require_free`.
        RuntimeError: the store cannot be written, or what is on disk is not what was written.
    """
    import zarr

    require_free(path)
    rows, columns, dim = values.shape
    side = _chunk(rows, columns, dim, dtype)
    shard = min(_PER_SHARD, -(-rows // side)) * side, min(_PER_SHARD, -(-columns // side)) * side
    with replacing_folder(path) as temporary:
        root = zarr.open_group(temporary, mode="w", zarr_format=3)
        root.attrs.update(_of_group((rows, columns), transform, crs, dtype, tags, attributes or {}))
        array = root.create_array(
            "embedding",
            shape=(dim, rows, columns),
            chunks=(dim, side, side),
            shards=None if shard == (side, side) else (dim, *shard),
            dtype=dtype,
            fill_value=NODATA if dtype == "int8" else np.nan,
            compressors=zstandard(3),
            config={"write_empty_chunks": True},  # so that a file that is gone is no ground that was not observed
            dimension_names=("feature", "y", "x"),
            attributes=_of_array(dtype, tags),
        )
        features = np.arange(dim, dtype=np.int32)
        _add(root, "feature", features, ("feature",), {"long_name": "dimension of the embedding"})
        for name, (axes, places, about) in coordinates((rows, columns), transform, crs).items():
            _add(root, name, places, axes, about)
        for here in windows(rows, columns, shard):
            block = numbers(values[here], str(path))
            array[:, *here] = np.moveaxis(as_stored(block, dtype), -1, 0)
        seal(temporary)
        consolidate(temporary)
        found = zarr.open_array(temporary, path="embedding", mode="r")
        meter = ErrorMeter()
        for here in windows(rows, columns, shard):
            kept = np.moveaxis(np.asarray(found[:, *here]), 0, -1)
            meter.add(numbers(values[here], str(path)), decoded(kept))
        return checked(meter, path, dtype)  # raises before a damaged store replaces a good one


def consolidate(path: Path) -> None:
    """Joins the metadata of a store in one file, for which xarray looks first."""
    import zarr

    with warnings.catch_warnings():  # that it is no part of Zarr 3: who does not know it need not read it
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(path)


def require_free(path: Path) -> None:
    """Refuses to replace what is no map of embeddings.

    Raises:
        ValueError: a file, a folder or a Zarr of something else lies at ``path``.
    """
    if path.exists() and not is_map(path):
        raise ValueError(
            f"{path} is in the way: it is no map of embeddings that may be replaced. Give another path, or remove it"
        )


def is_map(path: Path) -> bool:
    """Whether a Zarr is what :func:`write_geozarr` writes."""
    import zarr

    if not (path / "zarr.json").is_file():
        return False
    root = zarr.open_group(path, mode="r")
    return "eo-fusion" in root.attrs and "embedding" in root


def _chunk(rows: int, columns: int, dim: int, dtype: Dtype) -> int:
    """Not much larger than a small map, as chunks at the border are stored whole."""
    enough = 2 ** math.ceil(math.log2(max(rows, columns, 16)))
    return min(chunk_side(dim, np.dtype(dtype).itemsize), enough)


def _of_group(
    size: tuple[int, int],
    transform: Affine,
    crs: str,
    dtype: Dtype,
    tags: Mapping[str, str],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    rows, columns = size
    (west, north), (east, south) = transform @ (0, 0), transform @ (columns, rows)
    conventions = [SPATIAL, *([PROJ] if crs else []), *more.get("zarr_conventions", [])]
    return {
        "Conventions": "CF-1.11",
        "eo-fusion": __version__,
        **{name: value for name, value in more.items() if name != "zarr_conventions"},
        "zarr_conventions": conventions,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [rows, columns],
        "spatial:transform": [float(v) for v in tuple(transform)[:6]],
        "spatial:bbox": [float(v) for v in (west, south, east, north)],
        "spatial:registration": "pixel",
        **_projection(crs),
        **file_tags(dtype, tags),
    }


def _projection(crs: str) -> dict[str, str]:
    from rasterio.crs import CRS

    if not crs:
        return {}
    known = CRS.from_user_input(crs)
    authority = known.to_authority()
    code = {"proj:code": ":".join(authority)} if authority else {}
    return code | {"proj:wkt2": known.to_wkt(version="WKT2_2019")}


def _of_array(dtype: Dtype, tags: Mapping[str, str]) -> dict[str, Any]:
    known = {"long_name": "embedding", "units": "1", "grid_mapping": "spatial_ref", "coordinates": "spatial_ref"}
    how = {"decode": file_tags(dtype, tags)["FUSION_DECODE"]}
    return known | how | ({"nodata": NODATA} if dtype == "int8" else {})


def _add(root: Any, name: str, values: np.ndarray, dimensions: tuple[str, ...], attributes: Mapping[str, Any]) -> None:
    made = root.create_array(
        name,
        shape=values.shape,
        chunks=values.shape or "auto",
        dtype=values.dtype,
        dimension_names=dimensions,
        attributes=dict(attributes),
        compressors=None,  # so that any reader has them
    )
    made[...] = values
