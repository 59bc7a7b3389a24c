"""Small rasters of a series and of labels, whole and with content that no reader expects."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from damage import Damage

__all__ = ["DATES", "description", "of_rasters", "write_raster"]

DATES = ("2020-01-11", "2020-03-11", "2020-06-15")
SIDE = 16


def description(suffix: str) -> dict[str, Any]:
    return {
        "files": f"{{scene}}_{{date}}{suffix}",
        "tile": 40,
        "patch": 20,
        "modalities": {
            "s2": {
                "files": f"{{scene}}_{{date}}{suffix}",
                "bands": ["B02", "B04", "B08"],
                "resolution": 10,
                "unit": "reflectance x 10000",
                "nodata": 0,
            },
        },
    }


def write_raster(path: Path, values: Any = None, **changes: Any) -> None:
    import rasterio

    draw = np.random.default_rng(len(path.name))
    if values is None:
        values = draw.integers(300, 4000, (3, SIDE, SIDE)).astype(np.uint16)
    path.unlink(missing_ok=True)
    driver = {"driver": "GTiff", "compress": "deflate"}
    if path.suffix == ".jp2":
        driver = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    profile: dict[str, Any] = {
        **driver, "count": values.shape[0], "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype,
        "crs": "EPSG:32631", "transform": rasterio.transform.from_origin(500_000, 5_600_160, 10, 10), **changes,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rasters without a place, which are wanted here
        with rasterio.open(path, "w", **profile) as file:
            file.write(values)


def of_rasters() -> Iterator[Damage]:
    import rasterio

    draw = np.random.default_rng(0)
    values = draw.integers(300, 4000, (3, SIDE, SIDE)).astype(np.float64)

    def write(given: np.ndarray | None = None, **changes: Any) -> Any:
        return lambda path: write_raster(path, given, **changes)

    for dtype in ("complex64", "complex128", "float64", "uint8", "int16", "int32", "uint32"):
        yield dtype, write(values.astype(dtype))
    for mark in (np.nan, np.inf, -np.inf, 1e30, 3e38, 1e19, -9999, 0):
        yield f"all {mark}", write(np.full_like(values, mark).astype(np.float32))
        some = values.astype(np.float32)
        some.reshape(-1)[::7] = mark
        yield f"some {mark}", write(some)
    for name, part in {"one band": values[:1], "more bands": np.concatenate([values, values]), "one row": values[:, :1],
                       "one pixel": values[:, :1, :1], "fewer rows": values[:, :9]}.items():  # fmt: skip
        yield name, write(part.astype(np.uint16))
    place = rasterio.Affine
    for name, transform in {
        "rotated": place(9, 5, 500_000, 5, -9, 5_600_160), "west": place(-10, 0, 500_000, 0, -10, 5_600_160),
        "huge pixels": place(1e30, 0, 0, 0, -1e30, 0), "tiny pixels": place(1e-30, 0, 0, 0, -1e-30, 0),
        "no size": place(0, 0, 1, 0, 0, 1),
        "infinite": place(np.inf, 0, 0, 0, -np.inf, 0), "nan": place(np.nan, 0, np.nan, 0, np.nan, 0),
        "elsewhere": place(10, 0, 0, 0, -10, 0),
    }.items():  # fmt: skip
        yield f"place {name}", write(transform=transform)
    for crs in (None, "EPSG:4326", "EPSG:3857", "EPSG:4978"):
        yield f"CRS {crs}", write(crs=crs)
    for nodata in (np.nan, np.inf, 1e38, 300):
        yield f"nodata {nodata}", write(values.astype(np.float32), nodata=nodata)
