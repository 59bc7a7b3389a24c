"""What docs/data.md shows is what works."""

from __future__ import annotations

import re
from pathlib import Path

import geopandas
import h5py
import numpy as np
import rasterio
import xarray
import yaml
from shapely.geometry import box

from fusion.data import FolderDataset, collate, open_data, open_unlabelled
from fusion.data.folder import TableLabels, load_description

from .rasters import CRS, NORTH, WEST, write

TEXT = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_every_description_is_valid():
    descriptions = [load_description(yaml.safe_load(block)) for block in blocks("yaml")]
    assert [len(d.modalities) for d in descriptions] == [3, 2, 2, 2, 1, 1, 1, 1]


def test_the_commented_description_reads_a_folder_that_is_as_it_says(tmp_path):
    rng = np.random.default_rng(0)
    for scene in ("north", "south"):
        with h5py.File(tmp_path / f"{scene}.h5", "w") as file:
            s2 = rng.integers(100, 5000, (6, 5, 80, 80)).astype(np.uint16)
            s2[:, 4] = 0
            s2[2, 4, :, :40] = 90
            file["s2"], file["s2_dates"] = s2, [f"2020-{month:02d}-10" for month in range(3, 9)]
            file["s2_available"] = np.array([True, True, True, False, True, True])
            file["meteo"], file["meteo_dates"] = rng.random((9, 2)), [f"2020-04-{day:02d}" for day in range(1, 10)]
            file["crop_type"] = np.full((80, 80), 1200 if scene == "north" else 1510)
            file["bounds"] = [500000, 5399200, 500800, 5400000]
            if scene == "north":
                file["s1"], file["s1_dates"] = rng.random((3, 2, 80, 80)) / 10, ["2020-03", "2020-05", "2020-07"]
    (tmp_path / "fusion.yaml").write_text(blocks("yaml")[0])
    data = FolderDataset(tmp_path / "fusion.yaml", tmp_path)
    assert len(data) == 50
    west, east = data[0], data[4]
    assert len(west.days["s2"]) == 4  # one not available, one cloudy
    assert len(east.days["s2"]) == 5
    assert set(west.values) == {"s2", "s1", "weather"}
    assert set(data[25].values) == {"s2", "weather"}
    assert data.labels().tolist() == [0] * 25 + [1] * 25
    assert {name: len(data.split(name)) for name in data.splits} == {"train": 30, "val": 10, "test": 25}
    assert data.places()[6].transform == (40.0, 0.0, 500160.0, 0.0, -40.0, 5399840.0)  # of the weather, the coarsest


def test_the_description_of_npy_files_reads_a_folder_that_is_as_it_says(tmp_path):
    rng = np.random.default_rng(0)
    for part in ("s2", "dem", "labels"):
        (tmp_path / part).mkdir()
    np.save(tmp_path / "s2/north.npy", rng.integers(100, 5000, (6, 4, 80, 80)).astype(np.uint16))
    np.save(tmp_path / "s2/north_dates.npy", np.array([20200310 + 100 * k for k in range(6)]))
    np.save(tmp_path / "dem/north.npy", rng.random((80, 80)))
    np.save(tmp_path / "labels/north.npy", np.full((80, 80), 2))
    (tmp_path / "fusion.yaml").write_text(blocks("yaml")[3])
    data = FolderDataset(tmp_path / "fusion.yaml", tmp_path)
    assert len(data) == 25
    assert data.labels().tolist() == [1] * 25
    assert data[0].days["s2"].tolist() == [69, 100, 130, 161, 191, 222]
    assert data[0].values["dem"].shape == (1, 16, 16)


def test_the_description_of_a_file_a_band_reads_a_folder_that_is_as_it_says(tmp_path):
    for date in ("2020001", "2020101"):
        for k, band in enumerate(("B02", "B03", "B04", "B8A", "B12", "Fmask")):
            values = np.full((32, 32), 900 + k, np.int16) if band != "Fmask" else np.zeros((32, 32), np.uint8)
            if band == "Fmask" and date == "2020101":
                values[:, 16:] = 1 << 3
            path = tmp_path / f"HLS.S30.T31UFS.{date}T104031.v2.0.{band}.tif"
            with rasterio.open(write(path, values, size=30), "r+") as file:
                file.scales = (1.0 if band == "Fmask" else 1e-4,)
    (tmp_path / "fusion.yaml").write_text(next(block for block in blocks("yaml") if "HLS" in block))
    data = open_data(tmp_path)
    assert [data[i].days["hls"].tolist() for i in range(2)] == [[0, 100], [0]]
    assert data[0].values["hls"][0, :, 0, 0].tolist() == [900, 901, 902, 903]


def test_the_description_of_a_variable_a_band_reads_a_cube_that_is_as_it_says(tmp_path):
    axes = ("time", "y", "x")
    bands = {band: (axes, np.full((2, 32, 32), 900, np.uint16)) for band in ("B02", "B03", "B04")}
    coarse = {"B8A": (("time", "y20", "x20"), np.full((2, 16, 16), 700, np.uint16))}
    flags = {"SCL": (axes, np.full((2, 32, 32), 4, np.uint8))}
    time = np.array(["2020-01-01", "2020-04-10"], "datetime64[ns]")
    xarray.Dataset(bands | coarse | flags, {"time": time}).to_netcdf(tmp_path / "a.nc")
    (tmp_path / "fusion.yaml").write_text(next(block for block in blocks("yaml") if "variable: [B02" in block))
    data = open_data(tmp_path)
    assert data[3].days["s2"].tolist() == [0, 100]
    assert data[3].values["s2"][1, :, 15, 15].tolist() == [900, 900, 900, 700]
    assert "s2: B8A of 20 m" in data.notes()[0]


def test_the_description_of_vector_labels_reads_a_folder_that_is_as_it_says(tmp_path):
    for date in ("20220412", "20220512"):
        write(tmp_path / "s2" / f"a_{date}.tif", np.full((4, 32, 32), 900, np.uint16))
    fields = [box(WEST, NORTH - 100, WEST + 50, NORTH), box(WEST + 200, NORTH - 300, WEST + 320, NORTH - 200)]
    geopandas.GeoDataFrame({"crop": ["wheat", "maize"]}, geometry=fields, crs=CRS).to_file(tmp_path / "fields.gpkg")
    description = next(block for block in blocks("yaml") if "vector: fields.gpkg" in block)
    (tmp_path / "fusion.yaml").write_text(description)
    data = FolderDataset(tmp_path / "fusion.yaml", tmp_path)
    assert data.classes == ("maize", "wheat")
    assert data.names == ["a_r0000_c0000", "a_r0160_c0160"]  # of four tiles
    assert [(label >= 0).sum().item() for label in data.labels()] == [50, 120]
    assert len(open_unlabelled(tmp_path / "fusion.yaml")) == 4
    points = description.replace("vector: fields.gpkg", "table: points.csv").replace("# x: lon", "x: lon")
    points = points.replace("# y: lat", "y: lat").replace("  all_touched", "  # all_touched")
    assert load_description(yaml.safe_load(points)).labels == TableLabels(
        table="points.csv", field="crop", classes=("maize", "wheat"), x="lon", y="lat", resolution=10
    )


def test_a_reader_of_ones_own():
    code = next(block for block in blocks("python") if "class MyTiles" in block)
    space: dict = {}
    exec(code, space)
    data = space["MyTiles"]("anywhere")
    assert collate([data[0], data[1]]).values["s2"].shape == (2, 5, 2, 8, 8)


def test_arrays_in_memory():
    code = next(block for block in blocks("python") if "ArrayTiles(" in block)
    space: dict = {}
    exec(code, space)
    tile = space["tiles"].split("test")[0]
    assert tile.values["s2"].shape == (12, 2, 1, 1)
    assert tile.label.shape == (1,)
