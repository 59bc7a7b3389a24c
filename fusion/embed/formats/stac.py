"""A STAC item beside a map, by which catalogues find it.

Sources: STAC 1.1.0 (https://github.com/radiantearth/stac-spec), its extensions projection and raster 2.0.0, file 2.1.0
(size and SHA-256 of each file, as a multihash) and, for maps of classes, classification 2.0.0. Items of embeddings
follow the proposed extension for embeddings 0.0.1, too
(https://github.com/geo-embeddings/embeddings-stac-specification): the asset ``embeddings``, ``emb:quantization`` and
``emb:runtime_parameters``. It is not among ``stac_extensions``, since its schema takes items of STAC 1.0.0 alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine

from ...training.files import write_atomically

__all__ = ["Asset", "classes_of", "item_path", "write_item"]

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
_RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
_FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
_CLASSIFICATION = "https://stac-extensions.github.io/classification/v2.0.0/schema.json"
_SHA256 = "1220"  # of a multihash: the function (0x12), and the length of its value (0x20 bytes)
_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".zarr": "application/vnd+zarr",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".qml": "application/xml",
    ".html": "text/html",
}
_STEPS = 20  # between two corners: a straight border of one CRS is a curve in another


@dataclass(frozen=True)
class Asset:
    """A file of an item.

    Attributes:
        path: which lies beside the item.
        roles: ``"data"``, ``"thumbnail"``, ``"metadata"``, ...
        bands: names; empty where there are none.
        more: other fields.
    """

    path: Path
    roles: tuple[str, ...] = ("data",)
    title: str = ""
    bands: Sequence[str] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        known: dict[str, Any] = {"href": f"./{self.path.name}", "roles": list(self.roles)}
        known |= {"title": self.title} if self.title else {}
        known |= {"type": _TYPES[self.path.suffix]} if self.path.suffix in _TYPES else {}
        known |= {"bands": [{"name": name} for name in self.bands]} if self.bands else {}
        if self.path.is_file():  # a Zarr is a folder, whose files have checksums of their own
            with open(self.path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            known |= {"file:size": self.path.stat().st_size, "file:checksum": _SHA256 + digest}
        return known | dict(self.more)


def write_item(
    path: Path,
    assets: Mapping[str, Asset],
    *,
    crs: str,
    shape: tuple[int, int] | None = None,
    transform: Affine | None = None,
    bounds: tuple[float, float, float, float] | None = None,
    first: str | None = None,
    last: str | None = None,
    properties: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the item of the map at ``path`` and returns its file, see :func:`item_path`.

    Args:
        assets: by key; the files must be there.
        crs: anything that rasterio understands; empty where unknown, then there is no geometry.
        shape, transform: rows and columns of a raster, and from (column, row) to (x, y).
        bounds: west, south, east, north of what is no raster, in units of the CRS.
        first, last: ISO dates of the earliest and the latest image that was used. Where they are unknown, ``datetime``,
            which STAC demands, is the time of writing, and ``fusion:datetime`` says so.
        properties: more of them; None is left out.
    """
    if transform is not None and shape is not None:
        (west, north), (east, south) = transform @ (0, 0), transform @ shape[::-1]
        bounds = west, south, east, north
    if bounds is None:
        raise ValueError(f"{path}: an item wants shape and transform, or bounds")
    geometry, box = _footprint(bounds, crs)
    known = _dates(first, last) | _projection(crs, shape, transform, bounds)
    known |= {name: value for name, value in (properties or {}).items() if value is not None}
    extensions = [_PROJECTION]
    listed = {name: asset.to_dict() for name, asset in assets.items()}
    for prefix, extension in (("file:", _FILE), ("raster:", _RASTER), ("classification:", _CLASSIFICATION)):
        if any(key.startswith(prefix) for asset in listed.values() for key in asset):
            extensions.append(extension)
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": extensions,
        "id": path.stem,
        "geometry": geometry,
        **({"bbox": box} if box else {}),
        "properties": known,
        "links": [],
        "assets": listed,
    }
    target = item_path(path)
    text = json.dumps(item, indent=2, allow_nan=False)
    write_atomically(target, (text + "\n").encode())
    return target


def item_path(path: Path) -> Path:
    """Where the item of a map lies: ``map.json`` beside ``map.tif``.

    If that is a file of something else, or the item of another map (``map.zarr``), it is ``map.tif.json``.
    """
    target = path.with_suffix(".json")
    try:
        found = json.loads(target.read_text())
        ours = any(asset["href"] == f"./{path.name}" for asset in found["assets"].values())
    except FileNotFoundError:
        return target
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours = False
    return target if ours else path.with_name(f"{path.name}.json")


def classes_of(names: Sequence[str]) -> dict[str, Any]:
    """The field of the classification extension for the numbers 0, 1, ... of a band."""
    listed = [
        {"value": value, "name": re.sub(r"[^0-9A-Za-z_-]+", "_", name).strip("_") or f"class_{value}", "title": name}
        for value, name in enumerate(names)
    ]
    return {"classification:classes": listed}


def _dates(first: str | None, last: str | None) -> dict[str, Any]:
    if first is None or last is None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"datetime": now, "fusion:datetime": "of writing; the data have no dates"}
    return {"datetime": None, "start_datetime": f"{first}T00:00:00Z", "end_datetime": f"{last}T23:59:59Z"}


def _projection(
    crs: str, shape: tuple[int, int] | None, transform: Affine | None, bounds: tuple[float, ...]
) -> dict[str, Any]:
    from rasterio.crs import CRS

    known: dict[str, Any] = {"proj:code": None, "proj:bbox": [float(v) for v in bounds]}
    if crs:
        found = CRS.from_user_input(crs)
        authority = found.to_authority()
        known["proj:code"] = ":".join(authority) if authority else None
        known["proj:wkt2"] = found.to_wkt(version="WKT2_2019")
    if shape is not None and transform is not None:
        known |= {"proj:shape": list(shape), "proj:transform": [float(v) for v in tuple(transform)[:6]]}
    return known


def _footprint(bounds: tuple[float, float, float, float], crs: str) -> tuple[dict[str, Any] | None, list[float] | None]:
    """The rectangle in degrees, and its box (RFC 7946: west of east unless it crosses the antimeridian)."""
    from rasterio.warp import transform_geom

    if not crs:
        return None, None
    west, south, east, north = bounds
    xs, ys = np.linspace(west, east, _STEPS + 1).tolist(), np.linspace(south, north, _STEPS + 1).tolist()
    ring = [(x, south) for x in xs] + [(east, y) for y in ys[1:]]
    ring += [(x, north) for x in xs[-2::-1]] + [(west, y) for y in ys[-2::-1]]
    found: dict[str, Any] = transform_geom(crs, "OGC:CRS84", {"type": "Polygon", "coordinates": [ring]}, precision=9)
    parts = [_counterclockwise(np.array(outer)) for outer in _outer_rings(found)]  # the rectangle has no holes
    lower, upper = min(p[:, 1].min() for p in parts), max(p[:, 1].max() for p in parts)
    eastern = [p for p in parts if p[:, 0].max() > 179.999]
    western = [p for p in parts if p[:, 0].min() < -179.999]
    if len(parts) > 1 and eastern and western:  # cut at the antimeridian
        left, right = min(p[:, 0].min() for p in eastern), max(p[:, 0].max() for p in western)
    else:
        left, right = min(p[:, 0].min() for p in parts), max(p[:, 0].max() for p in parts)
    polygons = [[part.tolist()] for part in parts]
    shape: dict[str, Any] = {"type": "Polygon", "coordinates": polygons[0]}
    if len(polygons) > 1:
        shape = {"type": "MultiPolygon", "coordinates": polygons}
    return shape, [float(v) for v in (left, lower, right, upper)]


def _counterclockwise(ring: np.ndarray) -> np.ndarray:
    """(N, 2), as RFC 7946 has it; cutting turns rings round."""
    x, y = (ring - ring[0]).T
    return ring if (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0 else ring[::-1]


def _outer_rings(geometry: Mapping[str, Any]) -> Iterator[Any]:
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    yield from (polygon[0] for polygon in polygons)
