"""Described folders, refused: every way for a file or a description to be wrong says what is wrong."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import yaml

from fusion.data import FolderDataset
from fusion.data.folder import load_description

from .described_folder import DATES, DESCRIPTION, SIDE, arrays, described, rewrite, write_hdf5


def truncate(folder):
    path = folder / "north.npz"
    path.write_bytes(path.read_bytes()[:-400])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, r"north.npz: cannot be read, the file is damaged or incomplete"),
        (lambda f: rewrite(f, s2=None), r"north.npz: no 's2' in the file; it has agb, cloud, crop, dates"),
        (lambda f: rewrite(f, s2=arrays()["s2"][:, :2]), r"2 bands .*names 3: B02, B04, B08"),
        (lambda f: rewrite(f, s2=arrays()["s2"][:, 0]), r"shape \(4, 8, 8\), axes \(time, band, y, x\) wanted"),
        (lambda f: rewrite(f, dates=np.array(DATES[:3])), "3 dates for 4 time steps of 's2'"),
        (lambda f: rewrite(f, dates=np.array(["x"] * 4)), "dates: 'x' is not a date; 2020-08-17"),
        (lambda f: rewrite(f, dates=np.array(["2020-13-01"] * 4)), "'2020-13-01' is not a date"),
    ],
)
def test_a_file_that_is_not_as_described_names_itself(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        FolderDataset(DESCRIPTION, folder)
    assert "1 problems in 2 scenes" in str(error.value)
    assert "south" not in str(error.value)


def test_every_bad_file_is_listed(folder):
    truncate(folder)
    rewrite(folder, "south", s2=None)
    with pytest.raises(ValueError, match="2 problems in 2 scenes") as error:
        FolderDataset(DESCRIPTION, folder)
    assert "north.npz" in str(error.value)
    assert "south.npz" in str(error.value)


def test_a_truncated_hdf5_names_itself(folder):
    write_hdf5(folder, arrays())
    data = (folder / "north.h5").read_bytes()
    (folder / "north.h5").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"north.h5: cannot be read, the file is damaged or incomplete"):
        FolderDataset(described(files="{scene}.h5"), folder)


def test_a_chunk_damaged_inside_a_file_names_the_file(folder):
    with h5py.File(folder / "north.h5", "w") as file:
        values = np.random.default_rng(0).integers(0, 5000, (4, 3, SIDE, SIDE)).astype(np.uint16)
        file.create_dataset("s2", data=values, chunks=(1, 3, SIDE, SIDE), compression="gzip", fletcher32=True)
        file["dates"] = np.array(DATES, dtype="S10")
        offset = file["s2"].id.get_chunk_info(2).byte_offset
    raw = bytearray((folder / "north.h5").read_bytes())
    raw[offset + 20 : offset + 60] = bytes(40)
    (folder / "north.h5").write_bytes(raw)
    data = FolderDataset(described(files="{scene}.h5"), folder, memory=0)
    with pytest.raises(ValueError, match=r"north.h5: cannot be read"):
        data[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tile": 50}, "tile 50 m must be a multiple of patch 20 m"),
        ({"files": "{scene}.h5"}, "no file matches {scene}.h5"),
        ({"tile": 400}, "no scene holds a tile of 400 m, e.g. north is 80 x 80 m"),
        ({"patch": 4}, "patch 4 m is no multiple of its resolution 10 m"),
        ({"tiles": 3}, "unknown key 'tiles'; known are files, tile"),
        ({"modalities": {}}, "modalities are missing"),
        ({"modalities": {"s2": {"variable": "s2"}}}, "modality 's2': 'bands' is missing"),
        ({"modalities": {"s2": [1]}}, "modality 's2': keys with values are wanted"),
        ({"s2__nodatta": 0}, "modality 's2': unknown key 'nodatta'"),
        ({"s2__resolution": "10m"}, "resolution must be a number, not '10m'"),
        ({"s2__resolution": None}, "resolution is missing: metres per pixel"),
        ({"s2__dates": None}, "dates are missing"),
        ({"s2__axes": ["t", "y", "x"]}, "must be distinct and of time, band, y, x"),
        ({"s2__use": ["B99"]}, "no band B99; the file has B02, B04, B08"),
        ({"s2__mask": {"variable": "cloud"}}, "give either at_most, classes or bad_bits"),
        ({"s2__mask": {"variable": "dates", "at_most": 1}}, r"mask 'dates' has 1 axes, \(time, y, x\) wanted"),
        ({"s2__mask": {"variable": "s2", "at_most": 1, "band": 4}}, "mask 's2': band 4 of 3"),
        (
            {"s2__mask": {"variable": "crop", "at_most": 1, "resolution": 5}},
            r"mask 'crop' has shape \(8, 8\), \(4, 16, 16\) \(time, y, x\) wanted",
        ),
        ({"s2__available": "crop"}, r"'crop' has shape \(8, 8\), \(time,\)"),
        ({"georeference": {"epsg": 32631}}, "epsg with bounds, or epsg with x and y wanted, epsg given"),
        (
            {"georeference": {"epsg": 32631, "bounds": [0, 0, 160, 160]}},
            "pixels are 20 x 20 m, the description says 10",
        ),
        ({"georeference": {"epsg": 32631, "x": [5, 15], "y": [15, 5]}}, "2 y and 2 x for 8 x 8 pixels"),
        ({"georeference": {"epsg": 99, "bounds": [0, 0, 80, 80]}}, "EPSG:99 is no coordinate reference system"),
        ({"splits": {"train": {"column": [0, 1]}}}, "split 'train': unknown key column"),
        ({"labels": {"variable": "crop", "resolution": 10, "reduction": "mode"}}, "mean, majority, any or none"),
        ({"labels": {"variable": "crop", "resolution": 10, "reduction": "any"}}, "needs classes: a name for each code"),
        ({"labels": {"variable": "s2", "resolution": 10, "reduction": "mean"}}, r"have shape \(4, 3, 8, 8\), \(y, x\)"),
        ({"labels": {"variable": "agb", "resolution": 5, "reduction": "mean"}}, "do not cover 80 x 80 m"),
        (
            {"labels": {"variable": "crop", "resolution": 10, "reduction": "majority", "classes": {"x": 9}}},
            "none of 8 tiles has 50% labelled pixels; check classes",
        ),
    ],
)
def test_a_description_that_cannot_be_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        FolderDataset(described(**changes), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": 3}, "files is text, not 3; write it in quotes"),
        ({"files": ["a"]}, r"files is text, not \['a'\]"),
        ({"files": ""}, "files is text, not ''"),
        ({"tile": None}, "'tile' is missing"),
        ({"tile": float("inf")}, "tile is metres, more than 0 and no more than 1e"),
        ({"tile": 1e300}, "tile is metres, more than 0 and no more than 1e"),
        ({"patch": -20}, "patch is metres, more than 0"),
        ({"stride": float("nan")}, "stride is metres, more than 0"),
        ({"exclude": [None]}, "exclude are names, not None"),
        ({"georeference": [1]}, "georeference: keys with values are wanted"),
        ({"georeference": {"epsg": [1, 2], "x": "x", "y": "y"}}, r"epsg is a number such as 32631, .* not \[1, 2\]"),
        (
            {"georeference": {"epsg": 32631, "x": {"a": 1}, "y": "y"}},
            "georeference: x are finite numbers, or a variable",
        ),
        ({"georeference": {"epsg": 32631, "bounds": [0, 0, 0, 0]}}, r"bounds are \[left, bottom, right, top\]"),
        ({"georeference": {3: 4}}, "georeference: unknown key 3"),
        ({"splits": [1]}, "splits: names with keys are wanted"),
        ({"splits": {"../up": {"rows": [0, 1]}}}, "split '../up': a name is letters and digits"),
        ({"splits": {"train": {"rows": [0.8, 0.2]}}}, r"rows are shares .* the lower first, .*, not \[0.8, 0.2\]"),
        ({"splits": {"train": {"rows": [0, 1.2]}}}, "rows are shares of a scene from 0 to 1"),
        ({"splits": {"train": {"columns": [0, float("nan")]}}}, "columns are shares of a scene from 0 to 1"),
        ({"splits": {"train": {"columns": "left"}}}, "columns are shares of a scene from 0 to 1"),
        ({"splits": {"train": {"files": {}}}}, "files are patterns of names of scenes, not {}"),
        ({"modalities": {"../up": DESCRIPTION["modalities"]["s2"]}}, "'../up': a name becomes part of file names"),
        ({"s2__axes": 3}, "axes is text, not 3"),
        ({"s2__bands": True}, "bands is text, not True"),
        ({"s2__bands": [["B02"], 1, 2]}, r"bands are names, not \['B02'\]"),
        ({"s2__max_dates": -1}, "max_dates is a whole number from 1, not -1"),
        ({"s2__max_dates": 0.3}, "max_dates is a whole number from 1, not 0.3"),
        ({"s2__max_cloud": 50}, "max_cloud is a share, 0 to 1, not 50"),
        ({"s2__resolution": 0}, "resolution is metres, more than 0"),
        ({"s2__range": [3, 1]}, r"range is the lowest and the highest value, \[0, 10000\], not \[3, 1\]"),
        ({"s2__nodata": {"a": 1}}, "nodata is a number or a list of numbers"),
        ({"s2__scale": float("inf")}, "scale is a finite number, not inf"),
        ({"s2__decibels": 0}, "decibels is a positive number, not 0"),
        ({"s2__optional": "yes"}, "optional is true or false, not 'yes'"),
        ({"labels": {"variable": "agb", "resolution": 0, "reduction": "mean"}}, "resolution is metres, more than 0"),
        ({"labels": {"variable": "agb", "min_labelled": -1, "reduction": "mean"}}, "min_labelled is a share, 0 to 1"),
    ],
)
def test_a_value_that_its_key_cannot_have_names_the_file_and_the_key(folder, tmp_path, changes, message):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(described(**changes)))
    with pytest.raises(ValueError, match=message) as error:
        load_description(path)
    assert str(error.value).startswith(f"{path}: ")


def test_an_array_without_pixels_is_refused(folder):
    rewrite(folder, s2=arrays()["s2"][..., :0])
    with pytest.raises(ValueError, match=r"north.npz: 's2': 's2' has shape \(4, 3, 8, 0\), so no pixel in it"):
        FolderDataset(DESCRIPTION, folder)


def test_layers_that_cover_different_ground_are_refused(folder):
    s1 = {"variable": "s2", "bands": ["a", "b", "c"], "resolution": 20, "dates": "dates"}
    with pytest.raises(ValueError, match="'s1' covers 160 x 160 m and 's2' 80 x 80 m; check resolution"):
        FolderDataset(described(modalities=DESCRIPTION["modalities"] | {"s1": s1}), folder)


def test_files_that_are_no_description(tmp_path):
    with pytest.raises(ValueError, match="no such description; biomassters, worldcereal"):
        load_description(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("files: [")
    with pytest.raises(ValueError, match=r"b.yaml: is not YAML"):
        load_description(tmp_path / "b.yaml")
    with pytest.raises(ValueError, match="no such folder"):
        FolderDataset(DESCRIPTION, tmp_path / "nowhere")
