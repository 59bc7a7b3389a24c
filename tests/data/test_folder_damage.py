"""Damage that libraries tell in their own words, and numbers that nobody measured: the file is named, or it is said."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import xarray
from rasterio.transform import Affine

from fusion.data import FolderDataset, open_data
from fusion.data.check import check, check_values
from fusion.data.describe import describe
from fusion.data.files import decoding
from fusion.data.folder.calendar import parse_dates

from .described_folder import DESCRIPTION, arrays, described, rewrite, write_hdf5
from .rasters import SERIES, image, opened, write, write_series

BIOMASS = {"variable": "agb", "resolution": 10, "reduction": "mean"}


@pytest.fixture
def folder(tmp_path):
    rewrite(tmp_path)
    rewrite(tmp_path, "south")
    return tmp_path


def test_a_damaged_structure_within_hdf5_names_the_file(tmp_path):
    write_hdf5(tmp_path, arrays())
    path = tmp_path / "north.h5"
    content = path.read_bytes()
    with h5py.File(path) as file:
        place = h5py.h5o.get_info(file["s2"].id).addr
    path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
    with pytest.raises(ValueError, match=r"north.h5: cannot be read, the file is damaged or incomplete"):
        FolderDataset(described(files="{scene}.h5"), tmp_path)


@pytest.mark.parametrize("suffix", [".nc", ".npy", ".npz"])
def test_a_damaged_header_names_the_file(tmp_path, suffix):
    path = tmp_path / f"north{suffix}"
    if suffix == ".nc":
        xarray.Dataset({"s2": (("time", "y", "x"), np.ones((2, 8, 8)))}).to_netcdf(path, engine="scipy")
        path.write_bytes(path.read_bytes()[:300])
    elif suffix == ".npy":
        np.save(path, arrays()["s2"])
        path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': [", 1))
    else:
        rewrite(tmp_path)
        path.write_bytes(path.read_bytes().replace(b"'shape': (", b"'shape': [", 1))
    description = described(files=f"{{scene}}{suffix}")
    if suffix == ".npy":
        description["modalities"]["s2"] = {k: v for k, v in DESCRIPTION["modalities"]["s2"].items() if k != "variable"}
        description["modalities"]["s2"]["dates"] = ["2020-01-10"] * 4
    with pytest.raises(ValueError, match=rf"north{suffix}: cannot be read, the file is damaged or incomplete"):
        FolderDataset(description, tmp_path)


def test_what_does_not_fit_into_memory_is_told_with_the_file(tmp_path):
    with pytest.raises(MemoryError, match=r"a.h5: does not fit into memory \(too large\)"), decoding(tmp_path / "a.h5"):
        raise MemoryError("too large")


def test_infinite_labels_of_a_map_are_said(folder):
    agb = arrays()["agb"]
    agb.reshape(-1)[:3] = np.inf
    rewrite(folder, agb=agb)
    data = FolderDataset(described(labels=BIOMASS), folder)
    assert np.isfinite(data.labels().numpy()).all()
    told = "labels: 3 infinite values in 1 map(s), e.g. north.npz, are no label"
    assert any(note.startswith(told) for note in data.notes())


def test_one_value_that_nobody_measured_is_said_and_refused(folder):
    s2 = np.tile(arrays()["s2"].astype(np.float32), (1, 1, 16, 16))
    s2[1, 2, 33, 71] = 3e35
    rewrite(folder, s2=s2)
    rewrite(folder, "south", s2=s2 * 0 + 500)
    data = FolderDataset(described(tile=1280), folder, labels=False)
    told = "s2: 1 values such as 3e+35, e.g. in tile north_r0000_c0000: an undeclared nodata value, or a damaged file"
    assert any(warning.startswith(told) for warning in check(data).warnings)
    with pytest.raises(ValueError, match=r"modality 's2': 1 values such as 3e\+35 in these data"):
        check_values(data)


@pytest.mark.parametrize("value", [1e30, -1e300])
def test_labels_that_nobody_measured_are_refused(folder, value):
    agb = arrays()["agb"].astype(np.float64)
    agb[2, 3] = value
    rewrite(folder, agb=agb)
    with pytest.raises(
        ValueError, match=r"north.npz: 1 labels such as .*: no measured quantity is as large; say nodata"
    ):
        FolderDataset(described(labels=BIOMASS), folder)
    data = FolderDataset(described(labels=BIOMASS | {"nodata": value}), folder)
    assert np.isfinite(data.labels().numpy()).all()


@pytest.mark.parametrize(
    ("values", "units", "message"),
    [
        ([10**9], "days since 2020-01-01", "is beyond the years 1 to 9999"),
        ([2**62], "days since 2020-01-01", "is beyond the years 1 to 9999"),  # which milliseconds cannot hold
        ([1e300], "seconds since 2020-01-01", "is beyond the years 1 to 9999"),
        ([1], "days since 9999-12-31", "beyond the years 1 to 9999, the first is of the year 10000"),
        ([1], "days since 2020-02-31", "units count from 2020-02-31, which is no date"),
        (np.array(["12020-01-01"], "datetime64[D]"), None, "the first is of the year 12020"),
    ],
)
def test_dates_that_are_none_are_refused(values, units, message):
    with pytest.raises(ValueError, match=message):
        parse_dates(np.array(values), units)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,crop\n1,2,a\n3,4,5,6\n", r"labels.csv: cannot be read, the file is damaged or incomplete"),
        ("", r"labels.csv: .*damaged or incomplete"),
    ],
)
def test_a_table_that_is_none_is_named_where_a_folder_is_described(tmp_path, text, message):
    write_series(tmp_path)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        describe(tmp_path)


def test_coordinates_of_a_table_that_are_no_numbers_are_left_to_the_reader(tmp_path):
    write_series(tmp_path)
    (tmp_path / "labels.csv").write_text("x,y,crop\n" + "500q,1,a\n" * 3 + "2,3,b\n" * 3)
    assert describe(tmp_path).description["labels"]["table"] == "labels.csv"


def test_values_that_are_mappings_are_no_classes(tmp_path):
    write_series(tmp_path)
    point = (
        '{{"type": "Feature", "properties": {{"crop": {}}}, "geometry": {{"type": "Point", "coordinates": [3, 50]}}}}'
    )
    features = ", ".join(point.format(value) for value in ('{"a": 1}', '{"b": [2]}'))
    (tmp_path / "labels.geojson").write_text(f'{{"type": "FeatureCollection", "features": [{features}]}}')
    assert "labels" not in describe(tmp_path).description


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"transform": Affine(np.nan, 0, 0, 0, -10, 0)}, "its place is no number"),
        ({"transform": Affine(10, 0, np.inf, 0, -10, 0)}, "its place is no number"),
    ],
)
def test_a_raster_of_a_place_that_is_none_names_itself(tmp_path, options, message):
    write_series(tmp_path)
    write(tmp_path / "s2" / "a_2020-05-10.tif", image(1), **options)
    with pytest.raises(ValueError, match=rf"a_2020-05-10.tif: {message}"):
        opened(tmp_path, {"s2": SERIES})
    with pytest.raises(ValueError, match=rf"a_2020-05-10.tif: {message}"):
        describe(tmp_path)


def test_a_geocentric_place_has_no_metres_of_its_own(tmp_path):
    write_series(tmp_path, crs="EPSG:4978")
    assert describe(tmp_path).description["modalities"]["s2"]["resolution"] == 10


def test_units_that_are_numbers_are_none(tmp_path):
    write_hdf5(tmp_path, arrays())
    with h5py.File(tmp_path / "north.h5", "r+") as file:
        file["x"] = np.arange(8.0)
        file["x"].attrs["units"] = [3.0, 1.0]
    describe(tmp_path)


def test_a_folder_called_like_a_description_is_no_description(tmp_path):
    (tmp_path / "fusion.yaml").mkdir()
    with pytest.raises(ValueError, match=r"fusion.yaml"):
        open_data(tmp_path / "fusion.yaml")
