"""An xarray of dates and bands to an xarray of embeddings, on the same grid and CRS.

python examples/embed_an_xarray.py
"""

import numpy as np
import torch
import xarray as xr

import fusion
from fusion.data import Modality
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import save_model


def make_cube() -> xr.DataArray:
    """(time, band, y, x) reflectance of a season; any stackstac or odc-stac cube looks like this."""
    rng = np.random.default_rng(0)
    time = np.arange("2021-04-01", "2021-10-01", 15, dtype="datetime64[D]").astype("datetime64[ns]")
    values = rng.uniform(200, 3200, (len(time), 4, 32, 48)).astype(np.float32)
    values[3, :, :8, :8] = np.nan  # a cloud
    coords = {"time": time, "band": ["blue", "green", "red", "nir"]}
    coords |= {"y": 5_600_000 - 10.0 * np.arange(32) - 5, "x": 500_000 + 10.0 * np.arange(48) + 5}
    return xr.DataArray(values, coords, ("time", "band", "y", "x"), attrs={"crs": "EPSG:32631"})


def make_run(folder: str) -> str:
    """What `fusion pretrain` leaves; here with random weights, so that the example takes seconds."""
    bands = ("B02", "B03", "B04", "B08")
    s2 = Modality("s2", "series", bands, 10.0, 2, "reflectance x 10000", mean=(1700.0,) * 4, std=(900.0,) * 4)
    torch.manual_seed(0)
    save_model(f"{folder}/best.safetensors", OmniSat(OmniSatConfig.preset("tiny", [s2], grid=(4, 4))))
    return folder


def main() -> xr.DataArray:
    model = fusion.load(make_run("runs/example"))
    print(model)
    found = model.embed(make_cube())  # bands are found by their names
    print(found)
    return found


if __name__ == "__main__":
    main()
