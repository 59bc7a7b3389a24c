"""Rasters and cubes of a small place whose values tell where they are from, for tests of described folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine, from_origin

from fusion.data import FolderDataset

WEST, NORTH, CRS = 500000.0, 5600000.0, "EPSG:32631"
DATES = ["2020-04-10", "2020-05-10", "2020-06-10"]
DAYS = [100, 130, 161]
SIDE = 8  # pixels of 10 m: 4 tiles of 40 m
SERIES = {"files": "s2/{scene}_{date}.tif", "bands": ["B04", "B08"], "resolution": 10}


def image(seed: int = 0, bands: int = 2, side: int = SIDE) -> np.ndarray:
    """(bands, side, side) uint16: 1000 (seed + 1) + 100 band + row * side + column."""
    c, y, x = np.ogrid[:bands, :side, :side]
    return (1000 * (seed + 1) + 100 * c + side * y + x).astype(np.uint16)


def write(
    path: Path, values: np.ndarray, *, crs: str | None = CRS, west: float = WEST, north: float = NORTH,
    size: float = 10.0, transform: Affine | None = None, **options: Any,
) -> Path:  # fmt: skip
    """A GeoTIFF, or what the suffix says, of (bands, rows, columns) or (rows, columns)."""
    values = values[None] if values.ndim == 2 else values
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"driver": "GTiff"} | options
    with rasterio.open(
        path, "w", count=len(values), height=values.shape[1], width=values.shape[2], dtype=values.dtype, crs=crs,
        transform=transform or from_origin(west, north, size, size), **options,
    ) as file:  # fmt: skip
        file.write(values)
    return path


def write_series(folder: Path, **options: Any) -> None:
    for k, date in enumerate(DATES):
        write(folder / "s2" / f"a_{date}.tif", image(k), **options)


def opened(folder: Path, modalities: dict[str, Any], **changes: Any) -> FolderDataset:
    return FolderDataset({"files": "x", "tile": 40, "patch": 20, "modalities": modalities} | changes, folder)
