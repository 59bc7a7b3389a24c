"""Writes a chip of BioMassters as people keep such data: a GeoTIFF a month and sensor, and one of biomass."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import rasterio
from rasterio.transform import from_origin

CRS = "EPSG:3067"  # Finland's grid; the challenge removed the true place
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
RADAR = ("VV_asc", "VH_asc", "VV_desc", "VH_desc")


def write_chip(chip: Path, folder: Path, east: float, side: int) -> None:
    """The upper left ``side`` pixels of a chip; months without an image have no file."""
    name = chip.stem
    with h5py.File(chip) as file:
        place = from_origin(east, 7_000_000, 10, 10)
        for month in range(12):
            date = f"{2019 + (month >= 4)}-{(8 + month) % 12 + 1:02d}"  # from September
            if file["s2_available"][month]:
                values = file["s2"][month, : len(BANDS), :side, :side]
                cloudy = file["s2"][month, len(BANDS), :side, :side] > 50  # CLP; 255 is no data
                _write(folder / "s2" / f"{name}_{date}.tif", np.where(cloudy, 0, values), place, BANDS, nodata=0)
            if file["s1_available"][month].all():
                values = file["s1"][month, :, :side, :side] / np.float32(100)
                values = np.where(values < -300, np.float32(np.nan), values).astype(np.float32)
                _write(folder / "s1" / f"{name}_{date}.tif", values, place, RADAR, nodata=np.nan)
        _write(folder / "biomass" / f"{name}.tif", file["agbm"][:side, :side][None], place, ("agb",))


def _write(path: Path, values: np.ndarray, place: rasterio.Affine, names: tuple[str, ...], **options: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs=CRS, transform=place, **size, **options) as file:
        file.write(values)
        file.descriptions = names
