"""A variable a band, and quality flags as variables, as odc-stac and stackstac write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray

from fusion.data.folder import Source

from .rasters import DATES, NORTH, SIDE, WEST, image, opened

BANDS = ["B02", "B03", "B04"]
CUBE = {"files": "{scene}.nc", "variable": BANDS, "resolution": 10, "dates": "time"}


def series(bands: int = 3) -> np.ndarray:
    """(3, bands, 8, 8)."""
    return np.stack([image(k, bands) for k in range(3)])


def write_cube(path: Path, **changes: Any) -> xarray.Dataset:
    """One variable a band: B03 packed, flags in ``qa``; the east of the second date is cloud (bit 3)."""
    values = series().astype(np.int32)
    axes = ("time", "y", "x")
    qa = np.zeros((3, SIDE, SIDE), np.uint16)
    qa[1, :, 4:] = 1 << 3
    cube = xarray.Dataset(
        {
            "B02": (axes, values[:, 0], {"_FillValue": 1000}),
            "B03": (axes, (values[:, 1] * 2 - 1000), {"scale_factor": 0.5, "add_offset": 500.0}),
            "B04": (axes, values[:, 2]),
            "qa": (axes, qa),
            "spatial_ref": ((), 0, {"crs_wkt": "EPSG:32631"}),
        } | changes,
        {
            "time": np.array(DATES, "datetime64[ns]"),
            "y": NORTH - 5 - 10.0 * np.arange(SIDE),
            "x": WEST + 5 + 10.0 * np.arange(SIDE),
        },
    )  # fmt: skip
    if path.suffix == ".zarr":
        cube.to_zarr(path, zarr_format=2)
    else:
        cube.to_netcdf(path)
    return cube


@pytest.mark.parametrize("suffix", [".nc", ".zarr", ".h5", ".npz"])
def test_a_variable_a_band(tmp_path, suffix):
    dates: Any = "time"
    if suffix in (".nc", ".zarr"):
        write_cube(tmp_path / f"a{suffix}", B02=(("time", "y", "x"), series()[:, 0]))
    elif suffix == ".h5":
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for k, band in enumerate(BANDS):
                file[band] = series()[:, k]
        dates = DATES
    else:
        np.savez(tmp_path / "a.npz", **{band: series()[:, k] for k, band in enumerate(BANDS)})
        dates = DATES
    data = opened(tmp_path, {"s2": CUBE | {"files": f"{{scene}}{suffix}", "dates": dates}})
    assert data.modalities[0].bands == ("B02", "B03", "B04")
    np.testing.assert_array_equal(data[0].values["s2"], series()[:, :, :4, :4])
    np.testing.assert_array_equal(data[3].values["s2"], series()[:, :, 4:, 4:])
    read = opened(tmp_path, {"s2": CUBE | {"files": f"{{scene}}{suffix}", "dates": dates}}, labels=None)
    assert (read[0].geo is None) == (suffix in (".h5", ".npz"))


def test_the_packing_of_each_variable_is_its_own(tmp_path):
    write_cube(tmp_path / "a.nc")
    layer = opened(tmp_path, {"s2": CUBE}).scenes[0].layers["s2"]
    values = layer.values(np.arange(3), (0, 0, SIDE, SIDE))
    assert np.isnan(values[0, 0, 0, 0])
    assert np.isnan(values).sum() == 1
    values[0, 0, 0, 0] = 1000
    np.testing.assert_array_equal(values, series())


def test_names_of_bands_order_and_axes(tmp_path):
    write_cube(tmp_path / "a.nc")
    source = {"variable": ["B04", "B03"], "bands": ["red", "green"], "use": ["green"], "axes": ["time", "y", "x"]}
    data = opened(tmp_path, {"s2": CUBE | source})
    assert data.modalities[0].bands == ("green",)
    np.testing.assert_array_equal(data[0].values["s2"][:, 0], series()[:, 1, :4, :4])
    assert Source(variable=("a", "b"), axes=("y", "x"), resolution=10).axes == ("band", "y", "x")
    with pytest.raises(ValueError, match=r"bands \('red',\): a name for each of 2 variables is wanted"):
        opened(tmp_path, {"s2": CUBE | source | {"bands": ["red"], "use": []}})
    with pytest.raises(ValueError, match=r"a.nc: no 'B99'"):
        opened(tmp_path, {"s2": CUBE | {"variable": ["B02", "B99"]}})


def test_flags_of_another_variable(tmp_path):
    write_cube(tmp_path / "a.nc")
    for clear in ({"bad_bits": [3, 4]}, {"classes": [0]}):
        data = opened(tmp_path, {"s2": CUBE | {"mask": {"variable": "qa"} | clear}})
        assert [tile.days["s2"].tolist() for tile in (data[0], data[1])] == [[100, 130, 161], [100, 161]]
    with pytest.raises(ValueError, match="the mask holds uint16, which has no bit 16"):
        opened(tmp_path, {"s2": CUBE | {"mask": {"variable": "qa", "bad_bits": 16}}})[0]
    with pytest.raises(ValueError, match="bad_bits count from 0, the lowest, to 63, not -1"):
        opened(tmp_path, {"s2": CUBE | {"mask": {"variable": "qa", "bad_bits": -1}}})
    with pytest.raises(ValueError, match="give either at_most, classes or bad_bits"):
        opened(tmp_path, {"s2": CUBE | {"mask": {"variable": "qa", "bad_bits": [1], "classes": [0]}}})


def test_a_band_of_its_own_masks_the_others(tmp_path):
    write_cube(tmp_path / "a.nc")
    source = {"variable": [*BANDS, "qa"], "mask": {"band": "qa", "bad_bits": [3]}}
    data = opened(tmp_path, {"s2": CUBE | source})
    assert data.modalities[0].bands == tuple(BANDS)
    assert [tile.days["s2"].tolist() for tile in (data[0], data[1])] == [[100, 130, 161], [100, 161]]


def test_daily_weather_of_a_variable_each(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["s2"] = series()
        file["tg"], file["rr"] = np.arange(3.0), np.arange(3.0) * 10
    s2 = {"variable": "s2", "bands": BANDS, "resolution": 10, "dates": DATES}
    weather = {"variable": ["tg", "rr"], "axes": ["time"], "dates": DATES}
    data = opened(tmp_path, {"s2": s2, "weather": weather}, files="{scene}.h5")
    np.testing.assert_array_equal(data[0].values["weather"][:, :, 0, 0], [[0, 0], [1, 10], [2, 20]])


# Pixels of several sizes.


def coarse(values: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels."""
    return values.reshape(*values.shape[:-2], values.shape[-2] // 2, 2, values.shape[-1] // 2, 2).mean(axis=(-3, -1))


@pytest.mark.parametrize("placed", [True, False])
def test_coarser_and_finer_variables_come_to_the_resolution(tmp_path, placed):
    fine, rough = series()[:, 0].astype(np.float32), coarse(series()[:, 1].astype(np.float32))
    fine[0, 0, 0] = np.nan
    fine[0, :2, 2:4] = np.nan
    cube = xarray.Dataset({"B02": (("time", "y", "x"), fine), "B05": (("time", "y20", "x20"), rough)})
    if placed:
        cube = cube.assign_coords(
            y=NORTH - 5 - 10.0 * np.arange(8), x=WEST + 5 + 10.0 * np.arange(8), spatial_ref=((), 0, {"epsg": 32631})
        )
    cube.to_netcdf(tmp_path / "a.nc")
    source = CUBE | {"variable": ["B02", "B05"], "dates": DATES}
    window = (0, 0, 8, 8)
    data = opened(tmp_path, {"s2": source})
    values = data.scenes[0].layers["s2"].values(np.arange(3), window)
    np.testing.assert_array_equal(values[:, 0], fine)
    np.testing.assert_array_equal(values[:, 1], rough.repeat(2, 1).repeat(2, 2))
    assert data.notes() == [
        "s2: B05 of 20 m, in 1 file(s), laid onto pixels of 10 m (resample: nearest, the value of the nearest pixel)"
    ]
    if not placed:
        return
    data = opened(tmp_path, {"s2": source | {"resolution": 20}})
    values = data.scenes[0].layers["s2"].values(np.arange(3), (0, 0, 4, 4))
    np.testing.assert_array_equal(values[:, 1], rough)
    wanted = coarse(fine)
    wanted[0, 0, 0] = fine[0, :2, :2].ravel()[1:].mean()  # three of four pixels were observed
    np.testing.assert_array_equal(values[:, 0], wanted)
    assert np.isnan(values[0, 0, 0, 1])
    assert data.notes() == [
        "s2: B02 of 10 m, in 1 file(s), laid onto pixels of 20 m (resample: average, the mean of the observed pixels)"
    ]
    near = opened(tmp_path, {"s2": source | {"resolution": 20, "resample": "nearest"}})
    values = near.scenes[0].layers["s2"].values(np.arange(3), (0, 0, 4, 4))
    np.testing.assert_array_equal(values[1, 0], fine[1, 1::2, 1::2])


def test_bilinear_lies_between_the_centres(tmp_path):
    ramp = 100 + 20.0 * np.arange(4)[:, None] + 40.0 * np.arange(4)  # of 20 m
    np.savez(tmp_path / "a.npz", B02=np.zeros((8, 8)), B05=ramp)
    source = {"variable": ["B02", "B05"], "axes": ["y", "x"], "resolution": 10, "resample": "bilinear"}
    data = opened(tmp_path, {"photo": source}, files="{scene}.npz")
    read = data.scenes[0].layers["photo"].values(None, (0, 0, 8, 8))[0, 1]
    centre = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(read, 100 + 20 * centre[:, None] + 40 * centre, rtol=1e-6)
    part = data.scenes[0].layers["photo"].values(None, (3, 2, 4, 5))[0, 1]
    np.testing.assert_array_equal(part, read[3:7, 2:7])


def test_shapes_that_are_no_multiples_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", B02=np.zeros((8, 8)), B05=np.zeros((5, 5)))
    source = {"variable": ["B02", "B05"], "axes": ["y", "x"], "resolution": 10}
    with pytest.raises(ValueError, match=r"a.npz: 'photo' B05 has 5 x 5 pixels, a.npz 8 x 8: no whole number"):
        opened(tmp_path, {"photo": source}, files="{scene}.npz")
