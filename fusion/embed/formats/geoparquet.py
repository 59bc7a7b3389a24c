"""Embeddings of patches as a table: GeoParquet, a row a patch.

Source: GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/. ``geometry`` is the square of ground of the patch as
WKB, in the CRS of the data where they have one, else in longitude and latitude; ``bbox`` (its covering) lets readers
leave out row groups that lie elsewhere. ``embedding`` is a list of fixed size, float32 or int8; ``tile`` the name of
the tile that said most of the patch; ``x`` and ``y`` its centre.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine

from ...data.given import numbers
from ..codec import DECODE_FORMULA, Dtype, ErrorMeter, QuantizationError, as_stored, decode, decoded, undecodable
from ..raster import band_names, checked, file_tags
from .array_file import Windows
from .temporary import replacing

if TYPE_CHECKING:
    import xarray

__all__ = ["Part", "Table", "open_geoparquet", "require_pyarrow", "write_geoparquet"]

_LONLAT = "OGC:CRS84"
_GROUP_BYTES = 32 * 2**20  # of float32 vectors in a row group, which is what is in memory at a time
_GROUP_ROWS = 65_536
_POLYGON = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("xy", "<f8", (5, 2))])
_EXTRA = "pip install 'eo-fusion[vector]'"


@dataclass(frozen=True)
class Part:
    """Some rasters of patches in one array, one below the other.

    Attributes:
        values: (rows, columns, D), NaN = no data.
        owner: (rows, columns) number of the tile that said most of a patch, from 1; 0 where there is none.
        names: of the tiles.
        pieces: first row, number of rows and transform of each raster.
        crs: of all of them.
    """

    values: Windows
    owner: Windows
    names: Sequence[str]
    pieces: Sequence[tuple[int, int, Affine]]
    crs: str


@dataclass(frozen=True)
class Table:
    """What was written.

    Attributes:
        rows, dim: patches, and dimensions of the embedding.
        bounds: west, south, east, north of all of them.
        crs: of the table; empty where unknown.
    """

    rows: int
    dim: int
    bounds: tuple[float, float, float, float]
    crs: str
    error: QuantizationError


def write_geoparquet(path: Path, parts: Sequence[Part], dtype: Dtype, tags: Mapping[str, str]) -> Table:
    """Writes every patch with data, some thousand at a time, and reads them back to state the error.

    Raises:
        ValueError: pyarrow is not installed, or of some parts, not of all, the CRS is unknown.
        RuntimeError: the file cannot be written, or what is on disk is not what was written.
    """
    pa, pq = require_pyarrow()
    found = {part.crs for part in parts}
    if len(found) > 1 and "" in found:
        raise ValueError(f"{path}: the CRS of some tiles is unknown, others have {', '.join(sorted(found - {''}))}")
    crs = found.pop() if len(found) == 1 else _LONLAT
    dim, bounds = parts[0].values.shape[-1], _bounds(parts, crs)
    schema = pa.schema(
        [
            ("tile", pa.string()),
            ("x", pa.float64()),
            ("y", pa.float64()),
            ("embedding", pa.list_(pa.float32() if dtype == "float32" else pa.int8(), dim)),
            ("geometry", pa.binary()),
            ("bbox", pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        ],
        metadata={**file_tags(dtype, tags), "geo": json.dumps(_geo(crs, bounds))},
    )
    rows = 0
    with replacing(path) as temporary:
        options = {"compression": "zstd", "use_dictionary": ["tile"], "write_page_checksum": True}
        with pq.ParquetWriter(temporary, schema, **options) as writer:
            for names, corners, vectors in _groups(parts, crs, dim, path):
                writer.write_table(_table(schema, names, corners, as_stored(vectors, dtype)))
                rows += len(names)
        meter = ErrorMeter()
        with pq.ParquetFile(temporary) as file:
            for number, (_, _, vectors) in enumerate(_groups(parts, crs, dim, path)):
                meter.add(vectors, decoded(_vectors(file.read_row_group(number, ["embedding"]).column(0))))
        error = checked(meter, path, dtype)
    return Table(rows, dim, bounds, crs, error)


def open_geoparquet(path: Path, decode_codes: bool) -> xarray.Dataset:
    """The table as ``embedding`` (patch, feature) with ``tile``, ``x`` and ``y`` of every patch, and ``bounds``
    (patch, side): west, south, east, north.

    Args:
        decode_codes: float32; else the numbers as they are stored.

    Raises:
        ValueError: no such table, or codes of which nothing says how to decode them.
    """
    import xarray

    _, pq = require_pyarrow()
    wanted = ["tile", "x", "y", "embedding", "bbox"]
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        missing = sorted(set(wanted) - set(file.schema_arrow.names))
        if missing:
            held = ", ".join(file.schema_arrow.names)
            raise ValueError(
                f"{path}: no embeddings of patches; columns {', '.join(missing)} are missing, it has {held}"
            )
        table = file.read(wanted)
    meta = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    vectors = _vectors(table.column("embedding"))
    if vectors.dtype == np.int8 and decode_codes:
        if meta.get("FUSION_DECODE") != DECODE_FORMULA:
            raise undecodable(path, f"its FUSION_DECODE is {meta.get('FUSION_DECODE')!r}")
        vectors = decode(vectors)
    boxes = table.column("bbox").combine_chunks().flatten()  # xmin, ymin, xmax, ymax
    about: dict[str, Any] = {key: value for key, value in meta.items() if key.startswith(("FUSION_", "GEOEMB_"))}
    place = json.loads(meta.get("geo", "{}")).get("columns", {}).get("geometry", {}).get("crs")
    about |= {"crs": _wkt(place)} if place else {}
    return xarray.Dataset(
        {"embedding": (("patch", "feature"), vectors, {"long_name": "embedding", "units": "1"})},
        {
            "feature": np.array(band_names(vectors.shape[1])),
            "tile": ("patch", np.array(table.column("tile").to_pylist(), dtype=str)),
            "x": ("patch", table.column("x").to_numpy()),
            "y": ("patch", table.column("y").to_numpy()),
            "bounds": (("patch", "side"), np.stack([box.to_numpy() for box in boxes], axis=1)),
            "side": ["west", "south", "east", "north"],
        },
        about,
    )


def require_pyarrow() -> tuple[Any, Any]:
    """The two modules that tables are written and read by.

    Raises:
        ValueError: they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError(f"GeoParquet is written and read by pyarrow, which is not installed: {_EXTRA}") from None
    return pyarrow, pyarrow.parquet


Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # names (N,), corners (N, 4, 2), vectors (N, D)


def _groups(parts: Iterable[Part], crs: str, dim: int, path: Path) -> Iterator[Rows]:
    """What becomes a row group each: neighbouring rows of rasters, or many small rasters."""
    limit = max(1, min(_GROUP_ROWS, _GROUP_BYTES // (4 * dim)))
    held: list[Rows] = []
    for rows in _rows(parts, crs, limit, path):
        if held and sum(len(names) for names, _, _ in held) + len(rows[0]) > limit:
            yield _joined(held)
            held = []
        held.append(rows)
    if held:
        yield _joined(held)


def _joined(held: Sequence[Rows]) -> Rows:
    names, corners, vectors = (np.concatenate(parts) for parts in zip(*held, strict=True))
    return names, corners, vectors


def _rows(parts: Iterable[Part], crs: str, limit: int, path: Path) -> Iterator[Rows]:
    for part in parts:
        columns = part.values.shape[1]
        step = max(1, limit // columns)
        for first, count, transform in part.pieces:
            for top in range(0, count, step):
                bottom = min(top + step, count)
                here = slice(first + top, first + bottom), slice(0, columns)
                vectors = numbers(part.values[here], str(path))
                known = (part.owner[here] > 0) & ~np.isnan(vectors).any(axis=-1)
                if known.any():
                    at, left = np.nonzero(known)
                    names = np.array(part.names, dtype=object)[part.owner[here][known] - 1]
                    corners = _corners(top + at, left, transform)
                    yield names, corners if crs == part.crs else _reprojected(corners, part.crs, crs), vectors[known]


def _corners(rows: np.ndarray, columns: np.ndarray, transform: Affine) -> np.ndarray:
    """(N, 4, 2) x and y, counterclockwise from the southwest."""
    across, down = columns[:, None] + np.array([0, 1, 1, 0]), rows[:, None] + np.array([1, 1, 0, 0])
    x, y = transform @ (across.astype(np.float64), down.astype(np.float64))
    return np.stack([x, y], axis=-1)


def _reprojected(corners: np.ndarray, crs: str, to: str) -> np.ndarray:
    from rasterio.warp import transform

    x, y = transform(crs, to, *corners.reshape(-1, 2).T.tolist())
    return np.stack([x, y], axis=-1).reshape(corners.shape)


def _table(schema: Any, names: np.ndarray, corners: np.ndarray, vectors: np.ndarray) -> Any:
    pa, _ = require_pyarrow()
    low, high, centres = corners.min(axis=1), corners.max(axis=1), corners.mean(axis=1)
    boxes = [pa.array(side) for side in (*low.T.copy(), *high.T.copy())]
    columns = {
        "tile": pa.array(names, pa.string()),
        "x": pa.array(centres[:, 0].copy()),
        "y": pa.array(centres[:, 1].copy()),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "geometry": _wkb(corners),
        "bbox": pa.StructArray.from_arrays(boxes, ["xmin", "ymin", "xmax", "ymax"]),
    }
    return pa.table(list(columns.values()), schema=schema)


def _wkb(corners: np.ndarray) -> Any:
    """Polygons of four corners as well-known binary (ISO 19125-1), little-endian."""
    pa, _ = require_pyarrow()
    polygons = np.zeros(len(corners), dtype=_POLYGON)
    polygons["order"], polygons["type"], polygons["rings"], polygons["points"] = 1, 3, 1, 5
    polygons["xy"] = np.concatenate([corners, corners[:, :1]], axis=1)
    ends = np.arange(len(corners) + 1, dtype=np.int32) * _POLYGON.itemsize
    return pa.Array.from_buffers(
        pa.binary(), len(corners), [None, pa.py_buffer(ends.tobytes()), pa.py_buffer(polygons.tobytes())]
    )


def _bounds(parts: Iterable[Part], crs: str) -> tuple[float, float, float, float]:
    """West, south, east, north of the patches that a tile says something of."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for part in parts:
        for first, count, transform in part.pieces:
            for row in range(count):
                columns = np.flatnonzero(part.owner[first + row : first + row + 1, :])
                if len(columns):
                    corners = _corners(np.full(len(columns), row), columns, transform)
                    corners = corners if crs == part.crs else _reprojected(corners, part.crs, crs)
                    low, high = np.minimum(low, corners.min(axis=(0, 1))), np.maximum(high, corners.max(axis=(0, 1)))
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _geo(crs: str, bounds: Sequence[float]) -> dict[str, Any]:
    from rasterio.crs import CRS

    geometry: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": CRS.from_user_input(crs).to_dict(projjson=True) if crs else None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "bbox": [float(v) for v in bounds],
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}


def _wkt(projjson: Mapping[str, Any]) -> str:
    from rasterio.crs import CRS

    return CRS.from_user_input(json.dumps(projjson)).to_wkt()


def _vectors(column: Any) -> np.ndarray:
    """(N, D) of a column of lists of one size."""
    pa, _ = require_pyarrow()
    joined = column.combine_chunks()
    if not pa.types.is_fixed_size_list(joined.type):
        raise ValueError(f"column embedding is a {joined.type}; a list of fixed size is wanted")
    return np.asarray(joined.flatten()).reshape(len(joined), joined.type.list_size)
