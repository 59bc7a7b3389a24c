"""An xarray of dates and bands to an xarray of embeddings, on the same grid and CRS.

python examples/embed_an_xarray.py
"""

import numpy as np
import torch
import xarray as xr

from fusion.data import ArrayTiles, Modality, collate, fit_statistics
from fusion.omnisat import OmniSat, OmniSatConfig

GRID, PATCH = (4, 4), 2  # a tile is 4 x 4 patches of 2 x 2 pixels


def make_cube() -> xr.DataArray:
    """(time, band, y, x) reflectance of a season; any stackstac or odc-stac cube in memory looks like this."""
    rng = np.random.default_rng(0)
    time = np.arange("2021-04-01", "2021-10-01", 15, dtype="datetime64[D]").astype("datetime64[ns]")
    values = rng.random((len(time), 4, 32, 48), dtype=np.float32)
    values[3, :, :8, :8] = np.nan  # a cloud
    coords = {"time": time, "band": ["B02", "B03", "B04", "B08"]}
    coords |= {"y": 5_600_000 - 10.0 * np.arange(32) - 5, "x": 500_000 + 10.0 * np.arange(48) + 5}
    return xr.DataArray(values, coords, ("time", "band", "y", "x"), attrs={"crs": "EPSG:32631"})


def as_tiles(cube: xr.DataArray) -> ArrayTiles:
    """The cube cut into tiles, row by row."""
    side = GRID[0] * PATCH
    modality = Modality("s2", "series", tuple(cube.band.values), 10.0, PATCH, "reflectance")
    time, bands, rows, columns = cube.shape
    parts = cube.values.reshape(time, bands, rows // side, side, columns // side, side)
    values = parts.transpose(2, 4, 0, 1, 3, 5).reshape(-1, time, bands, side, side)  # (N, L, C, H, W)
    year = cube.time.dt.year.values[0]
    days = (cube.time.values.astype("datetime64[D]") - np.datetime64(f"{year}-01-01")).astype(int)
    return ArrayTiles([modality], {"s2": values}, days={"s2": days}, grid=GRID)


@torch.no_grad()
def embed(model: OmniSat, cube: xr.DataArray) -> xr.DataArray:
    """(feature, y, x): a vector for every patch, placed at its centre."""
    tiles = as_tiles(cube)
    patches = model(collate(list(tiles))).patches  # (N, P, D)
    down, across = cube.sizes["y"] // (GRID[0] * PATCH), cube.sizes["x"] // (GRID[1] * PATCH)
    laid = patches.view(down, across, *GRID, -1).permute(4, 0, 2, 1, 3).reshape(-1, down * GRID[0], across * GRID[1])
    centres = {axis: cube[axis].coarsen({axis: PATCH}).mean() for axis in ("y", "x")}
    return xr.DataArray(laid.numpy(), centres, ("feature", "y", "x"), attrs=cube.attrs)


def main() -> xr.DataArray:
    cube = make_cube()
    torch.manual_seed(0)
    model = OmniSat(
        OmniSatConfig.preset("tiny", fit_statistics(as_tiles(cube)), GRID)
    ).eval()  # or load_model("runs/mine")
    found = embed(model, cube)
    print(found)
    return found


if __name__ == "__main__":
    main()
