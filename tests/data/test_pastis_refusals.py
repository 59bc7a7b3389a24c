"""What is wrong with an archive of PASTIS-HD is said with the file and the fix."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import rasterio

from fusion.data import PastisDataset
from fusion.data.check import check

from .pastis_archive import write_pastis

SPOT = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pastis")
    write_pastis(folder, without_descending=())
    return folder


@pytest.fixture
def folder(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "PASTIS-HD")


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def properties(**changes):
    """Changes those of the first patch; None removes a key."""

    def spoil(folder):
        path = folder / "metadata.geojson"
        collection = json.loads(path.read_text())
        first = collection["features"][0]["properties"]
        for key, value in changes.items():
            key = key.replace("_", "-") if key.startswith("dates") else key
            first[key] = value
            if value is None:
                del first[key]
        path.write_text(json.dumps(collection))

    return spoil


def folds(kept):
    def spoil(folder):
        path = folder / "metadata.geojson"
        collection = json.loads(path.read_text())
        collection["features"] = [f for f in collection["features"] if f["properties"]["Fold"] in kept]
        path.write_text(json.dumps(collection))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "metadata.geojson").unlink(), r"no metadata.geojson here, found ANNOTATIONS, DATA_S1A.*copy"),
        (lambda f: truncate(f / "metadata.geojson"), "metadata.geojson: is not JSON .*half copied"),
        (lambda f: (f / "metadata.geojson").write_text("[1]"), "is no feature collection"),
        (lambda f: (f / "metadata.geojson").write_text('{"features": []}'), "holds no patch"),
        (lambda f: (f / "DATA_S2/S2_10001.npy").unlink(), r"1 files are missing.*\n.*DATA_S2/S2_10001.npy"),
        (lambda f: (f / "ANNOTATIONS/TARGET_10002.npy").unlink(), r"\n.*TARGET_10002.npy"),
        (lambda f: (f / SPOT / "SPOT6_RVB_1M00_2019_10003.tif").unlink(), r"\n.*SPOT6_RVB_1M00_2019_10003.tif"),
        (lambda f: shutil.rmtree(f / "DATA_S1D"), r"'s1-des' has no file DATA_S1D/S1D_<patch>.npy of any patch"),
        (properties(Fold=None), "patch 10000 has Fold None; 1 to 5 wanted"),
        (properties(Fold=6), "patch 10000 has Fold 6"),
        (properties(ID_PATCH=None), "a feature has no ID_PATCH; it has Fold"),
        (properties(ID_PATCH=10001), "patch 10001 occurs twice"),
        (properties(dates_S2=[20190101]), r"patch 10000: dates-S2 is \[20190101\], a dictionary"),
        (properties(dates_S1A="soon"), "patch 10000: dates-S1A is 'soon', a dictionary"),
        (properties(dates_S1D=None), "patch 10000: dates-S1D is None, a dictionary"),
        (properties(dates_S2={"0": 20191301}), "has 20191301 at 0, which is no date"),
        (folds({1, 2, 3, 5}), "no patch of fold 4, of which val is made"),
    ],
)
def test_an_archive_that_is_incomplete_or_no_archive(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        PastisDataset(folder)
    assert str(folder) in str(error.value)


def test_all_missing_files_are_named_in_one_message(folder):
    for name in ("DATA_S2/S2_10001", "DATA_S2/S2_10004", "ANNOTATIONS/TARGET_10000"):
        (folder / f"{name}.npy").unlink()
    with pytest.raises(ValueError, match="3 files are missing of 6 patches") as error:
        PastisDataset(folder)
    assert all(name in str(error.value) for name in ("S2_10001", "S2_10004", "TARGET_10000"))
    assert len(PastisDataset(folder, ["spot", "s1-asc"], labels=None)) == 6


@pytest.mark.parametrize("where", ["parent", "inside"])
def test_the_right_folder_is_named_for_a_wrong_one(folder, where):
    given = folder.parent if where == "parent" else folder / "DATA_S2"
    with pytest.raises(ValueError, match=f"no metadata.geojson here.*give {folder}, which has it"):
        PastisDataset(given)


def put(part, values):
    return lambda folder: np.save(folder / f"{part}_10000.npy", values)


def image(count, side):
    def spoil(folder):
        with rasterio.open(
            folder / SPOT / "SPOT6_RVB_1M00_2019_10000.tif", "w", driver="GTiff", width=side, height=side, count=count,
            dtype="uint8",
        ) as file:  # fmt: skip
            file.write(np.zeros((count, side, side), np.uint8))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (put("DATA_S1A/S1A", np.zeros((5, 2, 128, 128), np.float16)), r"\(5, 2, 128, 128\), .* append VV - VH"),
        (put("DATA_S2/S2", np.zeros((6, 10, 64, 64), np.int16)), r"\(dates, 10, 128, 128\) wanted: bands B02, B03"),
        (put("DATA_S2/S2", np.zeros((5, 10, 128, 128), np.int16)), "5 dates in the array but 6 in dates-S2"),
        (put("DATA_S2/S2", np.zeros((10, 128, 128), np.int16)), r"shape \(10, 128, 128\)"),
        (put("ANNOTATIONS/TARGET", np.zeros((128, 128), np.uint8)), r"shape \(128, 128\), \(3, 128, 128\) wanted"),
        (put("ANNOTATIONS/TARGET", np.full((3, 128, 128), 20, np.uint8)), r"classes 20..20, 0 to 19 wanted"),
        (lambda f: truncate(f / "DATA_S2/S2_10000.npy"), "damaged or incomplete"),
        (lambda f: truncate(f / "ANNOTATIONS/TARGET_10000.npy"), "damaged or incomplete"),
        (lambda f: (f / "DATA_S1D/S1D_10000.npy").write_bytes(b""), "damaged or incomplete"),
        (lambda f: truncate(f / SPOT / "SPOT6_RVB_1M00_2019_10000.tif"), "damaged or incomplete"),
        (image(3, 1000), "3 bands of 1000 x 1000 pixels; 3 .R, G, B. of 1280 x 1280 wanted"),
        (image(4, 1280), "4 bands of 1280 x 1280 pixels"),
    ],
)
def test_a_file_that_breaks_its_promise_names_itself_and_spoils_no_other_tile(folder, spoil, message):
    spoil(folder)
    data = PastisDataset(folder)
    assert set(data[1].values) == {"spot", "s2", "s1-asc", "s1-des"}
    with pytest.raises(ValueError, match=message) as error:
        data[0]
    assert "_10000." in str(error.value)
    report = check(data)
    assert len(report.problems) == 1
    assert "_10000." in report.problems[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["aerial"]}, "it has spot, s2, s1-asc, s1-des"),
        ({"modalities": []}, "unknown"),
        ({"labels": "classses"}, "'classes', 'map' or None"),
        ({"test_fold": 0}, "test_fold is 1, 2, 3, 4 or 5"),
        ({"cut": 3}, "cut is 1, 2, 4"),
    ],
)
def test_options_are_checked(folder, options, message):
    with pytest.raises(ValueError, match=message):
        PastisDataset(folder, **options)
