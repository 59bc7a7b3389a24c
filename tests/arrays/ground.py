"""Ground as xarray, small models of every system in files, and the same ground as a described folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import xarray as xr

from fusion.data import FolderDataset, Modality
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, save_model

CRS = "EPSG:32631"
BANDS = ("B02", "B03", "B04", "B08")
WEST, NORTH = 500_000.0, 5_600_000.0
# Patches of 20 m, tiles of 4 x 4 patches: 8 pixels of 10 m, 4 of 20 m, 32 of 2.5 m.
GRID = (4, 4)
S2 = Modality("s2", "series", BANDS, 10.0, 2, "reflectance x 10000", (1700.0,) * 4, (900.0,) * 4)
S1 = Modality("s1", "series", ("VV", "VH"), 20.0, 1, "dB", (-12.0,) * 2, (3.0,) * 2)
AERIAL = Modality("aerial", "image", ("red", "green"), 2.5, 8, "8 bit", (100.0,) * 2, (40.0,) * 2)
CLASSES = ("water", "oak & beech", "maize")


def coordinates(rows: int, columns: int, resolution: float) -> dict[str, np.ndarray]:
    """Centres of pixels, north up."""
    return {
        "y": NORTH - resolution * (np.arange(rows) + 0.5),
        "x": WEST + resolution * (np.arange(columns) + 0.5),
    }


def days(first: str, count: int, step: int) -> np.ndarray:
    return (np.datetime64(first, "D") + step * np.arange(count)).astype("datetime64[ns]")


def optical(rows: int = 24, columns: int = 36, dates: int = 6, seed: int = 0) -> xr.DataArray:
    """(time, band, y, x) reflectance x 10000, with a cloud that hides a tile on one date and part of it on another."""
    values = np.random.default_rng(seed).uniform(200, 3200, (dates, 4, rows, columns)).astype(np.float32)
    values[1, :, :8, :8] = np.nan
    values[2, :, :3, :3] = np.nan
    coords = {"time": days("2021-04-01", dates, 20), "band": list(BANDS), **coordinates(rows, columns, 10)}
    return xr.DataArray(values, coords, ("time", "band", "y", "x"), attrs={"crs": CRS})


def radar(rows: int = 12, columns: int = 18, dates: int = 5, resolution: float = 20, seed: int = 1) -> xr.DataArray:
    """(time, band, y, x) dB."""
    values = np.random.default_rng(seed).normal(-12, 2, (dates, 2, rows, columns)).astype(np.float32)
    coords = {"time": days("2021-04-03", dates, 24), "band": ["VV", "VH"], **coordinates(rows, columns, resolution)}
    return xr.DataArray(values, coords, ("time", "band", "y", "x"), attrs={"crs": CRS})


def picture(rows: int = 96, columns: int = 144, seed: int = 2) -> xr.DataArray:
    """(band, y, x) 8 bit."""
    values = np.random.default_rng(seed).integers(20, 230, (2, rows, columns)).astype(np.uint8)
    coords = {"band": ["red", "green"], **coordinates(rows, columns, 2.5)}
    return xr.DataArray(values, coords, ("band", "y", "x"), attrs={"crs": CRS})


def encoder(*modalities: Modality) -> OmniSat:
    """An OmniSat with random weights."""
    torch.manual_seed(0)
    return OmniSat(OmniSatConfig.preset("tiny", modalities, GRID, dim=16, mlp_dim=32, heads=2, series_heads=2)).eval()


def saved(folder: Path, model: OmniSat, finetuned: Finetuning | None = None) -> Path:
    """A run folder."""
    save_model(folder / "best.safetensors", model, finetuned=finetuned)
    return folder


def tuned(model: OmniSat, task: str, classes: tuple[str, ...], **settings) -> Finetuning:
    """A head with random weights, whose predictions vary over the ground."""
    torch.manual_seed(0)
    module = Finetuning(model, task, classes, **settings)
    with torch.no_grad():
        last = list(module.head.parameters())[-2]  # the weights of the last layer; the bias follows
        last *= 10 / last.norm(dim=1, keepdim=True).clamp_min(1e-6)
    return module.eval()


def as_folder(cube: xr.DataArray, folder: Path) -> FolderDataset:
    """The same ground in a NetCDF, read as files are."""
    folder.mkdir(parents=True)
    cube.rename("refl").assign_attrs(grid_mapping="spatial_ref").assign_coords(
        spatial_ref=xr.DataArray(0, attrs={"crs_wkt": CRS})
    ).to_dataset(name="refl").drop_vars("band").to_netcdf(folder / "scene.nc", engine="h5netcdf")
    source = {"variable": "refl", "bands": list(BANDS), "resolution": 10, "unit": S2.unit, "dates": "time"}
    description = {"files": "{scene}.nc", "tile": 80, "patch": 20, "modalities": {"s2": source}}
    return FolderDataset(description, folder, labels=False)
