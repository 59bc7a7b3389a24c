"""A folder of .npy files, one array each, read as its description says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fusion.data import FolderDataset
from fusion.data.npy import MappedArrays, open_array

from .described_folder import DATES, DAYS, DESCRIPTION, arrays, described

S2 = {"files": "{scene}_s2.npy", "bands": ["B02", "B04", "B08"], "resolution": 10, "dates": DATES, "unit": "dn"}


@pytest.fixture
def npy(tmp_path):
    """The arrays of the NPZ of ``folder``, a file each."""
    inside = tmp_path / "npy"
    inside.mkdir()
    for k, scene in enumerate(("north", "south")):
        values = arrays(seed=k)
        np.save(inside / f"{scene}_s2.npy", values["s2"])
        np.save(inside / f"{scene}_crop.npy", values["crop"])
    return inside


def description(**changes):
    return described(files="{scene}_s2.npy", modalities={"s2": S2 | changes})


def same(data, folder):
    expected = FolderDataset(DESCRIPTION, folder)
    for i in range(len(expected)):
        for item in (i, (i, 3)):
            assert data[item].values["s2"].equal(expected[item].values["s2"])
            assert data[item].days["s2"].tolist() == DAYS
    assert data[5].origin == np.datetime64("2020-01-01")


@pytest.mark.parametrize("memory", [0, 1 << 30])
def test_tiles_are_those_of_any_other_store(folder, npy, memory):
    data = FolderDataset(description(), npy, memory=memory)
    same(data, folder)
    assert data.storage("s2") == (2, "uint16")
    assert pickle.loads(pickle.dumps(data))[3].values["s2"].equal(data[3].values["s2"])


def test_axes_lie_in_any_order(folder, npy):
    for path in npy.glob("*_s2.npy"):
        np.save(path, np.ascontiguousarray(np.load(path).transpose(2, 3, 0, 1)))
    same(FolderDataset(description(axes=["y", "x", "time", "band"]), npy), folder)


@pytest.mark.parametrize("kind", ["of the scene", "of all", "text", "numbers"])
def test_dates_from_another_file(folder, npy, kind):
    dates = "{scene}_dates.npy"
    if kind == "text":
        dates = "dates/{scene}.txt"
        (npy / "dates").mkdir()
    for scene in ("north", "south"):
        if kind == "text":
            (npy / f"dates/{scene}.txt").write_text("\n".join(DATES) + "\n")
        elif kind == "of all":
            dates = "dates.npy"
            np.save(npy / "dates.npy", np.array(DATES, dtype="datetime64[D]"))
        else:
            numbers = np.array([int(date.replace("-", "")) for date in DATES])
            np.save(npy / f"{scene}_dates.npy", numbers if kind == "numbers" else np.array(DATES))
    same(FolderDataset(description(dates=dates), npy), folder)


def test_dates_from_the_names_of_the_files(folder, tmp_path):
    inside = tmp_path / "npy"
    inside.mkdir()
    for k, scene in enumerate(("north", "south")):
        for date, values in zip(DATES, arrays(seed=k)["s2"], strict=True):
            np.save(inside / f"{scene}_{date}.npy", values)
    body = {key: value for key, value in S2.items() if key != "dates"} | {"files": "{scene}_{date}.npy"}
    data = FolderDataset(described(files="{scene}_{date}.npy", modalities={"s2": body}), inside)
    same(data, folder)
    assert data.storage("s2") == (8, "uint16")
    assert pickle.loads(pickle.dumps(data))[3].values["s2"].equal(data[3].values["s2"])
    np.save(inside / "south_2020-03-01.npy", np.zeros((2, 8, 8)))
    with pytest.raises(ValueError, match=r"south_2020-03-01.npy: bands and size \(2, 8, 8\) differ from \(3, 8, 8\)"):
        FolderDataset(described(files="{scene}_{date}.npy", modalities={"s2": body}), inside)
    last = body | {"axes": ["band", "y", "x", "time"]}
    with pytest.raises(ValueError, match=r"a file a date makes time the first axis, axes \(band, y, x, time\) given"):
        FolderDataset(described(files="{scene}_{date}.npy", modalities={"s2": last}), inside)


def test_images_and_labels(npy):
    for scene in ("north", "south"):
        np.save(npy / f"{scene}_dem.npy", np.arange(64, dtype=np.float32).reshape(8, 8))
    dem = {"files": "{scene}_dem.npy", "axes": ["y", "x"], "bands": ["height"], "resolution": 10}
    labels = {"files": "{scene}_crop.npy", "resolution": 10, "reduction": "majority", "classes": {"a": 1, "b": [2, 3]}}
    data = FolderDataset(
        described(
            files="{scene}_s2.npy",
            modalities={"s2": S2, "dem": dem},
            labels=labels,
            georeference={"epsg": 32632, "bounds": [0, 0, 80, 80]},
        ),
        npy,
    )
    assert data.labels().tolist() == [0, 1, 1, 1] * 2
    assert data[3].values["dem"][0, 0].tolist() == [36, 37, 38, 39]
    assert data[3].geo.transform == (10.0, 0.0, 40.0, 0.0, -10.0, 40.0)


def test_nothing_is_kept_in_memory(npy):
    data = FolderDataset(description(), npy)
    data[0]
    assert data.arrays._kept == {}
    assert isinstance(data.arrays.container(npy / "north_s2.npy").variable(""), np.memmap)


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    ("spoil", "changes", "message"),
    [
        (None, {"variable": "s2"}, "south_s2.npy: holds one array without a name, so no variable 's2'; leave it out"),
        (None, {"bands": "names"}, "no variable 'names'"),
        (None, {"dates": "s2_dates"}, "no variable 's2_dates'"),
        (None, {"dates": "{scene}_days.npy"}, "south_days.npy: no such file"),
        (None, {"dates": DATES[:3]}, "3 dates for 4 time steps of the array"),
        (None, {"bands": ["B02", "B04"]}, "the array has 3 bands"),
        (None, {"axes": ["time", "y", "x"]}, r"the array has shape \(4, 3, 8, 8\), axes \(time, y, x\) wanted"),
        (truncate, {}, "south_s2.npy: cannot be read, the file is damaged or incomplete"),
        (lambda path: path.write_bytes(b"text"), {}, "south_s2.npy: cannot be read"),
        (lambda path: np.save(path, np.array([{}, None])), {}, "south_s2.npy: holds Python objects"),
        (lambda path: np.savez(path.open("wb"), np.zeros(3)), {}, "an archive of several arrays, a single .npy"),
    ],
)
def test_what_is_not_as_described_is_refused(npy, spoil, changes, message):
    if spoil:
        spoil(npy / "south_s2.npy")
    with pytest.raises(ValueError, match=message):
        FolderDataset(description(**changes), npy)


def test_dates_that_are_none_are_refused_with_the_file(npy):
    for scene in ("north", "south"):
        (npy / f"{scene}.txt").write_text("2020-01-10\nsoon\n2020-06-15\n2021-02-01")
    with pytest.raises(ValueError, match=r"south.txt: dates: 'soon' is not a date"):
        FolderDataset(description(dates="{scene}.txt"), npy)


def test_few_files_are_open_at_a_time(npy):
    mapped = MappedArrays(most=1)
    first = mapped.get(npy / "north_s2.npy")
    assert mapped.get(npy / "north_s2.npy") is first
    mapped.get(npy / "south_s2.npy")
    assert mapped.get(npy / "north_s2.npy") is not first
    assert np.array_equal(first, open_array(npy / "north_s2.npy"))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
