"""Bands by the names that files give them."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray as xr

from fusion.data.check import check

from .rasters import DATES, SERIES, image, opened, write

CUBE = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
REFUSED = r"the bands of 's2' are B08, B04 by the file and B04, B08 by the description"


def named(folder, names, date):
    """A raster whose bands have names."""
    import rasterio

    path = write(folder / "s2" / f"a_{date}.tif", image())
    with rasterio.open(path, "r+") as file:
        file.descriptions = names


def test_a_date_with_its_bands_in_another_order_is_refused(tmp_path):
    named(tmp_path, ("B4", "b08"), DATES[0])
    assert opened(tmp_path, {"s2": SERIES})[0].values["s2"][0, :, 0, 0].tolist() == [1000.0, 1100.0]
    named(tmp_path, ("B08", "B04"), DATES[1])
    with pytest.raises(ValueError, match=rf"a_{DATES[1]}.tif: {REFUSED}"):
        opened(tmp_path, {"s2": SERIES})


def test_dates_that_differ_among_themselves_are_refused_under_any_name(tmp_path):
    for names, date in ((("red", "nir"), DATES[0]), (("nir", "red"), DATES[1])):
        named(tmp_path, names, date)
    with pytest.raises(ValueError, match="the bands of 's2' are nir, red by the file and red, nir"):
        opened(tmp_path, {"s2": SERIES})


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_the_coordinate_of_the_bands_is_compared(tmp_path, suffix):
    data = xr.Dataset(
        {"s2": (("time", "band", "y", "x"), np.stack([image(k) for k in range(3)]))},
        coords={"time": np.array(DATES, "datetime64[ns]"), "band": ["B08", "B04"]},
    )
    path = tmp_path / f"a.{suffix}"
    data.to_netcdf(path) if suffix == "nc" else data.to_zarr(path)
    with pytest.raises(ValueError, match=REFUSED):
        opened(tmp_path, {"s2": CUBE}, files=f"{{scene}}.{suffix}")
    right = opened(tmp_path, {"s2": CUBE | {"bands": ["B08", "B04"], "use": ["B04"]}}, files=f"{{scene}}.{suffix}")
    assert right[0].values["s2"][:, 0, 0, 0].tolist() == [1100.0, 2100.0, 3100.0]


def test_names_that_only_overlap_are_told(tmp_path):
    named(tmp_path, ("B03", "B04"), DATES[0])
    warnings = check(opened(tmp_path, {"s2": SERIES})).warnings
    assert any("the files name their bands B03, B04" in line for line in warnings)


def test_complex_rasters_are_refused(tmp_path):
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image().astype(np.complex64))
    with pytest.raises(ValueError, match="holds complex64, real numbers are wanted"):
        opened(tmp_path, {"s2": SERIES})


def write_bytes(path, **attributes):
    with h5py.File(path, "w") as file:
        file["s2"] = (100 + image() % 100).astype(np.uint8).view(np.int8)[None]
        file["time"] = np.array([b"2020-04-10"])
        file["s2"].attrs.update(attributes)


def test_limits_of_unsigned_numbers_are_written_in_the_signed_type(tmp_path):
    write_bytes(tmp_path / "a.h5", _Unsigned="true", valid_range=np.array([0, -2], np.int8))
    values = opened(tmp_path, {"s2": CUBE}, files="{scene}.h5")[0].values["s2"]
    assert (values.min(), values.max()) == (100.0, 127.0)
    assert values[0, 0].tolist()[0] == [100.0, 101.0, 102.0, 103.0]


def test_numbers_of_attributes_may_be_text(tmp_path):
    write_bytes(tmp_path / "a.h5", scale_factor="0.5", _FillValue="100")
    values = opened(tmp_path, {"s2": CUBE}, files="{scene}.h5")[0].values["s2"]
    assert values[0, 0, 0, 1:].tolist() == [50.5, 51.0, 51.5]
    assert values[0, 0, 0, 0] > 50.5  # the mean


def test_a_valid_range_that_holds_nothing_is_refused_unless_replaced(tmp_path):
    write_bytes(tmp_path / "a.h5", valid_range=np.array([127, 0], np.int8))
    with pytest.raises(ValueError, match=r"nothing is within the valid range 127\.\.0"):
        opened(tmp_path, {"s2": CUBE}, files="{scene}.h5")
    assert opened(tmp_path, {"s2": CUBE | {"range": [0, 127]}}, files="{scene}.h5")[0].values["s2"].max() == 127


def test_a_scale_of_0_is_refused_unless_replaced(tmp_path):
    write_bytes(tmp_path / "a.h5", scale_factor=0.0)
    with pytest.raises(ValueError, match="its scale is 0"):
        opened(tmp_path, {"s2": CUBE}, files="{scene}.h5")
    assert opened(tmp_path, {"s2": CUBE | {"scale": 2}}, files="{scene}.h5")[0].values["s2"].max() == 254


def test_files_of_other_types_and_scenes_smaller_than_a_tile_are_told(tmp_path):
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image())
    write(tmp_path / "s2" / f"a_{DATES[1]}.tif", image().astype(np.float32) / 10000)
    write(tmp_path / "s2" / f"b_{DATES[0]}.tif", image(side=3))
    notes = opened(tmp_path, {"s2": SERIES}).notes()
    assert (
        f"s2: files differ in their type of numbers, e.g. a_{DATES[0]}.tif uint16 and a_{DATES[1]}.tif float32"
        in (notes[1].partition(": check")[0])
    )
    assert notes[0] == "1 of 2 scenes are smaller than a tile of 40 m, e.g. b"


def test_names_of_scenes_that_yaml_makes_numbers_are_named(tmp_path):
    for scene in ("0060", "7"):
        write(tmp_path / "s2" / f"{scene}_{DATES[0]}.tif", image())
    data = opened(tmp_path, {"s2": SERIES}, splits={"one": {"files": 7}, "both": {"files": ["00*", 7]}})
    assert [len(data.split(name)) for name in ("one", "both")] == [4, 8]
    with pytest.raises(ValueError, match=r"split 'one': files: 60 is no text in YAML.*write it in quotes, as '0060'"):
        opened(tmp_path, {"s2": SERIES}, splits={"one": {"files": 60}})


def test_labels_of_several_bands_are_told(tmp_path):
    write(tmp_path / "s2" / f"a_{DATES[0]}.tif", image())
    write(tmp_path / "labels" / "a.tif", np.stack([np.full((8, 8), code, np.uint8) for code in (1, 2, 3)]))
    labels = {"files": "labels/{scene}.tif", "resolution": 10, "reduction": "majority", "classes": {"a": 1, "b": 2}}
    data = opened(tmp_path, {"s2": SERIES}, labels=labels)
    assert data.labels().tolist() == [0, 0, 0, 0]
    assert data.notes()[0].startswith("labels: a.tif has 3 bands, the first of which is read")
