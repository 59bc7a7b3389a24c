"""Variables of NetCDF, Zarr, HDF5 and NPZ, and plain .npy files."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr

from fusion.data.describe import describe

from .describing import comment, described, questions, values
from .rasters import DATES, DAYS, NORTH, WEST, image

SIDE = 24
TIMES = np.array(DATES, dtype="datetime64[ns]")
X, Y = WEST + 5 + 10 * np.arange(SIDE), NORTH - 5 - 10 * np.arange(SIDE)
UTM = rasterio.crs.CRS.from_epsg(32631).to_wkt()


def series(band, dtype=np.uint16):
    """(time, y, x) of one band."""
    return np.stack([image(k, band + 1, SIDE)[band] for k in range(3)]).astype(dtype)


STACK = np.stack([series(0), series(1)], axis=1)  # (time, band, y, x)


def stackstac():
    """As stackstac.stack returns it: one array with a coordinate of bands, its CRS as an attribute."""
    coordinates = {
        "time": TIMES, "band": ["B04", "B08"], "x": X, "y": Y, "epsg": 32631, "id": ("time", ["a", "b", "c"]),
        "title": ("band", ["Red", "NIR"]), "eo:cloud_cover": ("time", [1.5, 20.0, 3.25]),
    }  # fmt: skip
    return xr.DataArray(
        STACK.astype(float), dims=("time", "band", "y", "x"), coords=coordinates, name="stackstac-0123abcd",
        attrs={"crs": "epsg:32631", "resolution": 10.0},
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_one_stacked_variable_is_read_with_the_bands_of_its_coordinate(tmp_path, suffix):
    stack = stackstac()
    if suffix == "nc":
        stack.to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    else:
        stack.to_dataset(name=stack.name).to_zarr(tmp_path / "cube.zarr", consolidated=False)
    guess, data = described(tmp_path)
    assert [m.name for m in data.modalities] == ["s2"]
    assert data.modalities[0].bands == ("B04", "B08")
    assert comment(guess, "modalities", "s2", "bands") == "from the coordinate of stackstac-0123abcd"
    assert comment(guess, "modalities", "s2", "dates") == "the 3 dates of its axis"
    np.testing.assert_array_equal(values(data, "s2"), STACK)
    assert data[0].days["s2"].tolist() == DAYS
    assert data[0].geo.crs == "EPSG:32631"
    assert data[0].geo.transform[2] == WEST
    assert not guess.questions


def test_a_single_file_is_described_in_its_folder(tmp_path):
    stackstac().to_netcdf(tmp_path / "cube.nc", engine="h5netcdf")
    (tmp_path / "other.nc").write_bytes(b"")
    guess, data = described(tmp_path / "cube.nc")
    assert guess.folder == tmp_path
    assert guess.description["files"] == "cube.nc"
    np.testing.assert_array_equal(values(data, "s2"), STACK)


def test_arrays_without_names_of_axes_go_by_shape_and_lists_beside_them(tmp_path):
    weather = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.savez(
        tmp_path / "north.npz", s2=STACK, s2_dates=np.array(DATES), s2_bands=np.array(["B04", "B08"]), meteo=weather,
        meteo_dates=np.array([f"2020-04-{1 + k:02d}" for k in range(20)]),
    )  # fmt: skip
    guess, data = described(tmp_path)
    assert data.modalities[0].bands == ("B04", "B08")
    assert comment(guess, "modalities", "s2", "bands") == "from s2_bands, the only list of 2 names in the file"
    assert guess.description["modalities"]["s2"]["dates"] == "s2_dates"
    assert guess.description["modalities"]["meteo"]["axes"] == ["time", "band"]
    np.testing.assert_array_equal(values(data, "s2"), STACK)
    np.testing.assert_array_equal(values(data, "meteo")[:, :, 0, 0], weather)
    assert "the metres of a pixel in north.npz? The file does not say them; 10 is written" in questions(guess)


def test_unknown_bands_and_dates_are_questions_that_must_be_answered(tmp_path):
    np.savez(tmp_path / "north.npz", s2=STACK)
    guess = describe(tmp_path)
    first, second = guess.open_questions
    assert first.startswith("the names of the 2 bands of s2 in north.npz, in the order of the file?")
    assert second == "the 3 dates of s2 in north.npz? No variable holds 3 dates; give dates: a variable or a list"
    assert comment(guess, "modalities", "s2", "dates") == "placeholders: not known"


def test_a_map_of_codes_beside_the_series_is_the_labels(tmp_path):
    with h5py.File(tmp_path / "north.h5", "w") as file:
        file["s2"], file["dates"] = STACK, np.array(DATES, dtype="S10")
        file["bands"] = np.array(["B04", "B08"], dtype="S3")
        file["crop"] = (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3).astype(np.uint8)
        file["epsg"], file["bounds"] = 32631, [WEST, NORTH - 480, WEST + 480, NORTH]
    guess, data = described(tmp_path)
    assert guess.description["labels"] == {
        "variable": "crop", "resolution": 20, "reduction": "none", "nodata": 0, "classes": {"class 1": 1, "class 2": 2},
    }  # fmt: skip
    assert guess.description["georeference"] == {"epsg": "epsg", "bounds": "bounds"}
    assert "is the code 0 in crop a class, or no label as is written here?" in questions(guess)
    assert comment(guess, "labels", "reduction").startswith("a guess")
    assert data.classes == ("class 1", "class 2")
    assert data.dense


def test_sensors_in_groups_go_with_the_lists_of_their_group(tmp_path):
    with h5py.File(tmp_path / "north.h5", "w") as file:
        for sensor, bands, stack in (("s2", ["B04", "B08"], STACK), ("s1", ["VV", "VH"], STACK / np.float32(-300))):
            file[f"{sensor}/data"], file[f"{sensor}/dates"] = stack, np.array(DATES, dtype="S10")
            file[f"{sensor}/bands"] = np.array(bands, dtype="S3")
    _, data = described(tmp_path)
    assert [(m.name, m.bands, m.unit) for m in data.modalities] == [
        ("s2", ("B04", "B08"), "reflectance x 10000"), ("s1", ("VV", "VH"), "dB")
    ]  # fmt: skip
    np.testing.assert_array_equal(values(data, "s1"), STACK / np.float32(-300))


def test_a_modality_that_some_files_lack_is_optional(tmp_path):
    lists = {"s2_dates": np.array(DATES), "s2_bands": np.array(["B04", "B08"])}
    radar = {"s1": STACK / np.float32(-300), "s1_dates": np.array(DATES), "s1_bands": np.array(["VV", "VH"])}
    np.savez(tmp_path / "a_2020-01-01_x.npz", s2=STACK, **lists, **radar)
    np.savez(tmp_path / "b.npz", s2=STACK, **lists)
    guess, data = described(tmp_path)
    assert guess.description["files"] == "{scene}.npz"  # a date in a name of a series is none of an image
    assert comment(guess, "modalities", "s1", "optional") == "1 of 2 files looked at lack it, e.g. b.npz"
    assert "s1" in data[0].values
    assert "s1" not in data[1].values


def test_dates_since_the_new_baseline_are_asked_about(tmp_path):
    later = np.array(["2021-12-01", "2022-02-01", "2022-03-01"])
    np.savez(tmp_path / "a.npz", s2=STACK, dates=later, bands=np.array(["B04", "B08"]))
    assert "are values of Sentinel-2 since 2022-01-25 (2 of 3 dates) 1000 higher" in questions(describe(tmp_path))


def test_flags_along_time_are_asked_about_and_no_image(tmp_path):
    lists = {"dates": np.array(DATES), "bands": np.array(["B04", "B08"])}
    np.savez(tmp_path / "a.npz", s2=STACK, cloud_mask=(STACK[:, 0] % 2).astype(np.uint8), **lists)
    guess, data = described(tmp_path)
    assert [m.name for m in data.modalities] == ["s2"]
    assert "which codes of cloud_mask in a.npz are clear? Write them as mask: {variable: cloud_mask" in questions(guess)


def test_numbers_at_the_end_of_a_type_are_guessed_to_be_nodata(tmp_path):
    radar = (STACK.astype(np.int16) - 4000) // 2
    radar[1, 1, :5] = -32768
    np.savez(tmp_path / "a.npz", s1=radar, dates=np.array(DATES), bands=np.array(["VV", "VH"]))
    guess, data = described(tmp_path)
    source = guess.description["modalities"]["s1"]
    assert (source["nodata"], source["unit"], source["scale"]) == (-32768, "dB", 0.01)
    np.testing.assert_allclose(values(data, "s1")[0], radar[0] / 100, rtol=1e-5)
    assert data.modalities[0].unit == "dB"


def test_plain_arrays_take_dates_from_the_file_beside_them(tmp_path):
    for scene in ("north", "south"):
        np.save(tmp_path / f"{scene}.npy", STACK)
        np.save(tmp_path / f"{scene}_dates.npy", np.array(DATES))
    guess, data = described(tmp_path)
    assert guess.description["modalities"]["image"]["dates"] == "{scene}_dates.npy"
    assert len(data) == 2
    assert data[1].days["image"].tolist() == DAYS
    np.testing.assert_array_equal(values(data, "image"), STACK)
    assert "the names of the 2 bands of north.npy" in guess.open_questions[0]


def test_a_damaged_container_is_named(tmp_path):
    (tmp_path / "cube.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"cube.nc: .*damaged or incomplete"):
        describe(tmp_path)


def test_a_file_without_pixels_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", names=np.array(["x"]), numbers=np.arange(5))
    with pytest.raises(ValueError, match=r"a.npz: no variable with pixels .* among 2: names \(1,\), numbers \(5,\)"):
        describe(tmp_path)
