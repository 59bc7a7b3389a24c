"""What is wrong with an archive of FLAIR #2 is said with the file and the fix."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import rasterio

from fusion.data import FlairDataset, open_data
from fusion.data.check import check

from .flair_archive import write_flair

AREA = "D004_2021/Z1_NN"
STEM = f"flair_sen_train/{AREA}/sen/SEN2_sp_D004_2021_Z1_NN"
CENTROIDS = "flair-2_centroids_sp_to_patch.json"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flair")
    write_flair(folder)
    return folder


@pytest.fixture
def folder(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "FLAIR")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def centroid(number, value):
    def spoil(folder):
        table = json.loads((folder / CENTROIDS).read_text())
        table[f"IMG_{number:06d}.tif"] = value
        if value is None:
            del table[f"IMG_{number:06d}.tif"]
        (folder / CENTROIDS).write_text(json.dumps(table))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / f"flair_labels_train/{AREA}/msk/MSK_000001.tif").unlink(),
            r"1 files are missing.*\n.*MSK_000001.tif",
        ),
        (lambda f: (f / f"flair_aerial_train/{AREA}/img/IMG_000002.tif").unlink(), r"\n.*IMG_000002.tif"),
        (lambda f: (f / f"{STEM}_data.npy").unlink(), r"\n.*_data.npy"),
        (lambda f: (f / f"{STEM}_masks.npy").unlink(), r"\n.*SEN2_sp_D004_2021_Z1_NN_masks.npy"),
        (lambda f: (f / f"{STEM}_products.txt").unlink(), r"\n.*SEN2_sp_D004_2021_Z1_NN_products.txt"),
        (
            lambda f: shutil.copy(f / f"{STEM}_data.npy", f / f"{STEM}2_data.npy"),
            "2 series, SEN2_sp_D004_2021_Z1_NN2_data",
        ),
        (centroid(2, None), f"IMG_000002.tif in {CENTROIDS}"),
        (centroid(2, "here"), r"\[row, column\], ...} wanted"),
        (lambda f: (f / CENTROIDS).unlink(), f"{CENTROIDS}: no such file"),
        (lambda f: truncate(f / CENTROIDS), "is not JSON"),
        (lambda f: shutil.rmtree(f / "flair_sen_train"), "not train's folder of sen; copy it"),
        (lambda f: shutil.rmtree(f / "flair_2_labels_test"), "not test's folder of labels"),
        (
            lambda f: shutil.copytree(f / "flair_2_sen_test", f / "flair-2_sen_test"),
            "both flair-2_sen_test and flair_2_sen_test",
        ),
    ],
)
def test_an_archive_that_is_incomplete_says_what_is_missing(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        FlairDataset(folder)
    assert str(folder) in str(error.value)


def test_all_missing_partners_are_named_in_one_message(folder):
    for name in ("labels_train/{}/msk/MSK_000001", "aerial_train/{}/img/IMG_000002"):
        (folder / f"flair_{name.format(AREA)}.tif").unlink()
    (folder / f"{STEM}_products.txt").unlink()
    with pytest.raises(ValueError, match="3 files are missing") as error:
        FlairDataset(folder)
    assert all(name in str(error.value) for name in ("MSK_000001", "IMG_000002", "_products.txt"))


@pytest.mark.parametrize("names", [("data", "aux-data"), ("aux-data",)])
def test_a_newer_layout_is_refused_with_the_one_that_is_understood(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(
        ValueError, match=r"a newer layout .*understood is that of FLAIR #2 as first published: flair_aer"
    ):
        FlairDataset(tmp_path)
    with pytest.raises(ValueError, match="a newer layout"):
        open_data(tmp_path)


@pytest.mark.parametrize("where", ["parent", "inside"])
def test_the_right_folder_is_named_for_a_wrong_one(folder, where):
    given = folder.parent if where == "parent" else folder / "flair_sen_train"
    with pytest.raises(ValueError, match=f"here, found .*give {folder}, which has them"):
        FlairDataset(given)
    with pytest.raises(ValueError, match="no such folder"):
        FlairDataset(folder / "nowhere")


def put(name, values):
    return lambda folder: np.save(folder / name, values)


def image(name, count, side, value=1):
    def spoil(folder):
        with rasterio.open(
            folder / name, "w", driver="GTiff", width=side, height=side, count=count, dtype="uint8"
        ) as file:
            file.write(np.full((count, side, side), value, np.uint8))

    return spoil


IMG, MSK = f"flair_aerial_train/{AREA}/img/IMG_000001.tif", f"flair_labels_train/{AREA}/msk/MSK_000001.tif"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (image(IMG, 4, 512), "4 bands of 512 x 512 pixels; 5 of 512 x 512 wanted: red"),
        (image(IMG, 5, 500), "5 bands of 500 x 500 pixels; 5 of 512"),
        (image(MSK, 3, 512), "3 bands of 512 x 512 pixels; 1 of 512"),
        (image(MSK, 1, 512, 20), "values 20..20, classes 1 to 19 wanted"),
        (put(f"{STEM}_data.npy", np.zeros((6, 9, 28, 36), np.uint16)), r"\(6, 9, 28, 36\), \(dates, 10, height"),
        (put(f"{STEM}_data.npy", np.zeros((5, 10, 28, 36), np.uint16)), "5 dates, but 6 product names"),
        (
            put(f"{STEM}_masks.npy", np.zeros((6, 28, 36), np.uint8)),
            r"\(6, 28, 36\), \(6, 2, 28, 36\) wanted.*single channel",
        ),
        (
            put(f"{STEM}_masks.npy", np.zeros((5, 2, 28, 36), np.uint8)),
            r"\(5, 2, 28, 36\), \(6, 2, 28, 36\) wanted: snow",
        ),
        (
            lambda f: (f / f"{STEM}_products.txt").write_text("S2A_soon\n" * 6),
            "'S2A_soon' has no date YYYYMMDD as char",
        ),
        (centroid(1, [36, 10]), "28 x 36 pixels, and flair-2_centroids.* places .*IMG_000001 at row 36, column 10"),
        (lambda f: truncate(f / f"{STEM}_data.npy"), "damaged or incomplete"),
        (lambda f: truncate(f / f"{STEM}_masks.npy"), "damaged or incomplete"),
        (lambda f: truncate(f / IMG), "damaged or incomplete"),
        (lambda f: truncate(f / MSK), "damaged or incomplete"),
    ],
)
def test_a_file_that_breaks_its_promise_names_itself_and_spoils_no_other_area(folder, spoil, message):
    spoil(folder)
    data = FlairDataset(folder)
    assert set(data[2].values) == {"aerial", "s2"}
    with pytest.raises(ValueError, match=message) as error:
        data[0]
    assert AREA in str(error.value)
    report = check(data)
    assert len(report.problems) == 1
    assert AREA in report.problems[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["spot"]}, "it has aerial, s2"),
        ({"modalities": "s2"}, "unknown"),
        ({"labels": True}, "'classes', 'map' or None"),
        ({"max_cloud": 50}, "max_cloud is a share, 0 to 1, not 50"),
    ],
)
def test_options_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        FlairDataset(folder, **options)
