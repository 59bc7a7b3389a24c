"""Places by coordinates as files write them."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rasterio.warp
import xarray as xr

from .rasters import CRS, DATES, NORTH, SIDE, WEST, image, opened, write

CUBE = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
STEPS = np.arange(SIDE)


def cube(folder, x, y, names=("y", "x"), **more):
    data = xr.Dataset(
        {"s2": (("time", "band", *names), np.stack([image(k) for k in range(3)]))},
        coords={"time": np.array(DATES, "datetime64[ns]"), names[1]: x, names[0]: y} | more,
    )
    folder = folder / f"{len(list(folder.iterdir()))}"  # NetCDF files that are open cannot be written anew
    folder.mkdir()
    data.to_netcdf(folder / "a.nc")
    return folder


def place(folder, **georeference):
    more = {"georeference": georeference} if georeference else {}
    folder = max(folder.iterdir())
    geo = opened(folder, {"s2": CUBE}, files="{scene}.nc", **more).scenes[0].geo
    return geo.crs, round(geo.transform[2], 4), round(geo.transform[5], 4)


def test_longitudes_of_0_to_360_are_turned(tmp_path):
    cube(tmp_path, 350.00005 + STEPS * 1e-4, 49.99995 - STEPS * 1e-4, ("lat", "lon"))
    assert place(tmp_path) == ("EPSG:4326", -10.0, 50.0)
    cube(tmp_path, 179.99985 + STEPS * 1e-4, 49.99995 - STEPS * 1e-4, ("lat", "lon"))  # over the antimeridian
    assert place(tmp_path) == ("EPSG:4326", 179.9998, 50.0)


def test_kilometres_are_turned_to_metres(tmp_path):
    x, y = (WEST + 5 + 10 * STEPS) / 1000, (NORTH - 5 - 10 * STEPS) / 1000
    crs = ((), 0, {"crs_wkt": rasterio.crs.CRS.from_string(CRS).to_wkt()})
    cube(tmp_path, ("x", x, {"units": "km"}), ("y", y, {"units": "km"}), spatial_ref=crs)
    assert place(tmp_path) == (CRS, WEST, NORTH)


def test_degrees_in_float32_are_even(tmp_path):
    x, y = (103.00005 + STEPS * 1e-4).astype(np.float32), (49.99995 - STEPS * 1e-4).astype(np.float32)
    cube(tmp_path, x, y, ("lat", "lon"))
    assert place(tmp_path)[1:] == (pytest.approx(103, abs=2e-5), pytest.approx(50, abs=1e-5))


def test_a_lacking_row_is_no_even_spacing(tmp_path):
    cube(tmp_path, WEST + 10 * STEPS, NORTH - 10 * np.delete(np.arange(SIDE + 1), 4))
    with pytest.raises(ValueError, match="not evenly spaced"):
        place(tmp_path)


def test_an_epsg_code_may_be_written_in_words_and_stand_beside_the_data(tmp_path):
    x, y = WEST + 5 + 10 * STEPS, NORTH - 5 - 10 * STEPS
    cube(tmp_path, x, y)
    assert place(tmp_path, epsg="EPSG:32631", x="x", y="y") == (CRS, WEST, NORTH)
    cube(tmp_path, x, y, epsg=32631)  # as stackstac writes it
    assert place(tmp_path) == (CRS, WEST, NORTH)
    with pytest.raises(ValueError, match="no 'UTM 31' in the file"):
        place(tmp_path, epsg="UTM 31", x="x", y="y")


def test_coordinates_of_a_swath_are_refused(tmp_path):
    lon, lat = np.meshgrid(STEPS * 1e-4, 50 - STEPS * 1e-4)
    cube(tmp_path, STEPS, STEPS, lon=(("y", "x"), lon), lat=(("y", "x"), lat))
    with pytest.raises(ValueError, match=r"have shapes \(8, 8\) and \(8, 8\), one number a row"):
        place(tmp_path, epsg=4326, x="lon", y="lat")


def test_a_raster_placed_by_polynomials_alone_is_refused(tmp_path):
    zeros = [0.0] * 20
    rpcs = rasterio.rpc.RPC(
        0.0, 1.0, 50.0, 1.0, [1.0, *zeros[1:]], zeros, 0.0, 1.0, 3.0, 1.0, [1.0, *zeros[1:]], zeros, 0.0, 1.0
    )
    transform = rasterio.Affine.identity()
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image(), crs=None, transform=transform, rpcs=rpcs)
    series = {"files": "s2/{scene}_{date}.tif", "bands": ["B04", "B08"], "resolution": 10}
    with pytest.raises(ValueError, match=r"rational polynomials \(RPC\) alone"):
        opened(tmp_path, {"s2": series})


@pytest.mark.parametrize(
    ("crs", "longitude", "first"),
    [("EPSG:32630", -5.0, 0.0), ("EPSG:32601", -180.0, 0.0), ("EPSG:32601", -180.0, 170.0)],
)
def test_aligned_longitudes_of_0_to_360_are_those_of_the_place(tmp_path, crs, longitude, first):
    (x,), (y,) = rasterio.warp.transform("EPSG:4326", crs, [longitude], [50.0])
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image(), crs=crs, west=round(x) - 40, north=round(y) + 40)
    lon = first + np.arange(360 if first == 0 else 20) + 0.5
    lat = 89.5 - np.arange(180)
    xr.Dataset({"t": (("lat", "lon"), np.tile(lon, (180, 1)))}, {"lat": lat, "lon": lon}).to_netcdf(tmp_path / "t.nc")
    series = {"files": "s2/{scene}_{date}.tif", "bands": ["B04", "B08"], "resolution": 10}
    globe = {"files": "t.nc", "variable": "t", "axes": ["y", "x"], "bands": ["t"], "resolution": 10}
    data = opened(tmp_path, {"s2": series, "t": globe}, align=True)
    for tile in data:
        assert tile.values["t"].numpy() == pytest.approx(longitude % 360, abs=0.01)


def test_an_aligned_raster_may_begin_within_the_tiles(tmp_path):
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image())
    (west,), (north,) = rasterio.warp.transform(CRS, "EPSG:4326", [WEST + 45], [NORTH])
    write(
        tmp_path / "dem.tif", np.full((40, 40), 7.0, np.float32), crs="EPSG:4326",
        transform=rasterio.transform.from_origin(west, north + 1e-4, 1e-4, 1e-4),
    )  # fmt: skip
    series = {"files": "s2/{scene}_{date}.tif", "bands": ["B04", "B08"], "resolution": 10}
    dem = {"files": "dem.tif", "axes": ["band", "y", "x"], "bands": ["height"], "resolution": 10}
    tiles = opened(tmp_path, {"s2": series, "dem": dem}, align=True)
    assert ["dem" in tile.values for tile in tiles] == [False, True, False, True]
