"""A cube larger than memory, on a cluster of Dask: nothing is read before it is wanted, a task is a part of the ground.

python examples/embed_with_dask.py
"""

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from dask.distributed import Client, LocalCluster

import fusion
from fusion.data import Modality
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import save_model

BANDS = ("B02", "B03", "B04", "B08")


def make_cube(path: Path, side: int = 128) -> Path:
    """A Zarr (time, band, y, x) in chunks; stands for yours."""
    rng = np.random.default_rng(0)
    time = np.arange("2021-04-01", "2021-10-01", 30, dtype="datetime64[D]").astype("datetime64[ns]")
    values = rng.uniform(200, 3200, (len(time), 4, side, side)).astype(np.float32)
    coords = {"time": time, "y": 5_600_000 - 10.0 * np.arange(side) - 5, "x": 500_000 + 10.0 * np.arange(side) + 5}
    cube = xr.DataArray(values, coords, ("time", "band", "y", "x"), attrs={"crs": "EPSG:32631"})
    cube.to_dataset(name="reflectance").chunk({"y": 64, "x": 64}).to_zarr(path, mode="w", zarr_format=2)
    return path


def make_run(folder: Path) -> Path:
    """What `fusion pretrain` leaves; here with random weights, so that the example takes seconds."""
    s2 = Modality("s2", "series", BANDS, 10.0, 2, "reflectance x 10000", mean=(1700.0,) * 4, std=(900.0,) * 4)
    torch.manual_seed(0)
    save_model(folder / "best.safetensors", OmniSat(OmniSatConfig.preset("tiny", [s2], grid=(4, 4))))
    return folder


def main(workers: int = 2) -> xr.Dataset:
    model = fusion.load(make_run(Path("runs/example")))
    cube = xr.open_zarr(make_cube(Path("cube.zarr"))).reflectance.assign_coords(band=list(BANDS))
    with LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        embedding = model.embed(cube, block=32)  # a recipe: (feature, y, x), nothing computed
        # Each worker writes its own parts; what is in memory at a time is a part a worker.
        embedding.to_dataset(name="embedding").to_zarr("embedding.zarr", mode="w", zarr_format=2)
    return xr.open_zarr("embedding.zarr")


if __name__ == "__main__":
    print(main())
