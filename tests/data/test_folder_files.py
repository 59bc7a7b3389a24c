"""Which files a pattern finds, and how many are open at a time."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest

from fusion.data import FolderDataset
from fusion.data.folder.patterns import File as Match
from fusion.data.folder.patterns import find_files
from fusion.data.folder.raster import RasterFile
from fusion.data.handles import Handles

from .rasters import DATES, SERIES, image, opened, write, write_series


def test_patterns_may_be_absolute_dotted_or_lead_out_of_the_folder(tmp_path):
    inside, beside = tmp_path / "in[1]", tmp_path / "out"
    for folder in (inside, beside):
        (folder / "deep").mkdir(parents=True)
        for name in ("a.h5", "deep/b.h5"):
            (folder / name).touch()
    for pattern, folder in (
        ("{scene}.h5", inside), ("./{scene}.h5", inside), (f"{inside}/{{scene}}.h5", inside),
        ("../out/{scene}.h5", beside), (f"{beside}/{{scene}}.h5", beside), ("../out/./{scene}.h5", beside),
    ):  # fmt: skip
        found = find_files(inside, pattern)
        assert list(found) == ["a"], pattern
        assert found["a"][0][0].resolve() == (folder / "a.h5").resolve()
    assert list(find_files(inside, "./deep/{scene}.h5")) == ["b"]
    assert find_files(inside, "a.h5") == {"in[1]": [Match(inside / "a.h5")]}
    assert find_files(inside, f"{tmp_path}/nowhere/{{scene}}.h5") == {}


def test_a_date_stands_for_the_same_date_wherever_it_stands(tmp_path):
    for name in ("2020/a_2020-01-10.tif", "2020-01-10/a_2020-01-10.tif", "2020-01-10/a_2020-02-10.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path, "{date}/{scene}_{date}.tif")
    assert [(path.parent.name, path.name, date) for path, date, _ in found["a"]] == [
        ("2020-01-10", "a_2020-01-10.tif", "2020-01-10")
    ]


def test_dates_are_ordered_in_whatever_form_they_are_written(tmp_path):
    for name in ("a_20200310.tif", "a_2020-01-10.tif", "a_202002.tif"):
        (tmp_path / name).touch()
    assert [date for _, date, _ in find_files(tmp_path, "{scene}_{date}.tif")["a"]] == [
        "2020-01-10",
        "202002",
        "20200310",
    ]


class File:
    def __init__(self):
        self.closed = False

    def close(self):
        self.closed = True


def test_the_file_unused_for_longest_is_closed():
    handles = Handles(most=2)
    a, b = handles.get("a", File), handles.get("b", File)
    assert handles.get("a", File) is a
    handles.get("c", File)
    assert (a.closed, b.closed) == (False, True)
    assert handles.get("b", File) is not b
    assert len(handles) == 2
    assert len(pickle.loads(pickle.dumps(handles))) == 0
    assert pickle.loads(pickle.dumps(handles)).most == 2


def test_threads_do_not_share_a_file():
    handles, found = Handles(most=8), []
    first = handles.get("a", File)
    thread = threading.Thread(target=lambda: found.append(handles.get("a", File)))
    thread.start()
    thread.join()
    assert found[0] is not first


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts files in /proc")
@pytest.mark.parametrize("suffix", [".h5", ".tif", ".npy", ".nc", ".zarr"])
def test_more_files_than_a_process_may_open(tmp_path, suffix):
    """150 files where 128 may be open: read in a process of its own, to which the limit applies."""
    script = textwrap.dedent(
        f"""
        import resource, sys
        from fusion.data import FolderDataset
        modality = {{"bands": ["a"], "resolution": 10, "axes": ["band", "y", "x"]}}
        if "{suffix}" in (".h5", ".nc", ".zarr"): modality["variable"] = "a"
        import h5py, rasterio, xarray, zarr, torch
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        described = {{"files": "{{scene}}{suffix}", "tile": 40, "patch": 20, "modalities": {{"m": modality}}}}
        data = FolderDataset(described, {str(tmp_path)!r}, memory=0)
        print(sum(float(data[i].values["m"][0, 0, 0]) for i in range(len(data))))
        """
    )
    for k in range(150):
        values = np.full((1, 4, 4), k + 1, np.float32)
        path = tmp_path / f"{k:03d}{suffix}"
        if suffix == ".tif":
            write(path, values)
        elif suffix == ".npy":
            np.save(path, values)
        elif suffix == ".zarr":
            import zarr

            zarr.open_group(path, mode="w").create_array("a", data=values)
        else:
            with h5py.File(path, "w") as file:
                file["a"] = values
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=os.environ
    )
    assert done.stdout.strip() == str(float(sum(range(1, 151)))), done.stderr[-2000:]


def test_a_set_of_rasters_can_be_sent_to_workers(tmp_path):
    write_series(tmp_path)
    data = opened(tmp_path, {"s2": SERIES})
    data[0]
    again = pickle.loads(pickle.dumps(data))
    assert again[3].values["s2"].equal(data[3].values["s2"])


def test_suffixes_that_are_not_read_are_named(tmp_path):
    write_series(tmp_path)
    (tmp_path / "a.mat").write_text("x")
    other = {"files": "{scene}.mat", "variable": "x", "axes": ["y", "x"], "bands": ["x"], "resolution": 10}
    with pytest.raises(ValueError, match=r"a.mat: variables are read from .h5, .hdf5, .*\.zarr files, not '.mat'"):
        opened(tmp_path, {"s2": SERIES, "x": other})
    lacking = {"files": "{scene}.mat", "axes": ["y", "x"], "bands": ["x"], "resolution": 10}
    with pytest.raises(
        ValueError, match=r"'x': variable is missing in the description; only rasters and .npy do without"
    ):
        opened(tmp_path, {"s2": SERIES, "x": lacking})
    (tmp_path / "a_x.nc").write_bytes(b"GRIB" * 9)
    with pytest.raises(ValueError, match="neither NetCDF 3 nor NetCDF 4"):
        opened(tmp_path, {"s2": SERIES, "x": other | {"files": "{scene}_x.nc"}})


def test_an_array_of_text_is_no_data(tmp_path):
    np.savez(tmp_path / "a.npz", s2=np.full((3, 2, 8, 8), "x"), time=np.array(DATES))
    stored = {"variable": "s2", "bands": ["B04", "B08"], "resolution": 10, "dates": "time"}
    with pytest.raises(ValueError, match="'s2' holds <U1, numbers are wanted"):
        opened(tmp_path, {"s2": stored}, files="a.npz")
    np.savez(tmp_path / "a.npz", s2=np.stack([image(k) for k in range(3)]) > 2000, time=np.array(DATES))
    assert opened(tmp_path, {"s2": stored}, files="a.npz")[0].values["s2"].unique().tolist() == [0, 1]


def test_the_first_whole_date_of_a_name_is_its_date(tmp_path):
    for name in ("S2A_20200410T101112_N0209.tif", "L2A_A016201_20200510.tif", "S2B_20200610.tif"):
        (tmp_path / name).touch()
    found = find_files(tmp_path, "*{date}*.tif")[tmp_path.name]
    assert [date for _, date, _ in found] == ["20200410", "20200510", "20200610"]
    assert [date for _, date, _ in find_files(tmp_path, "{scene}_*{date}.tif")["S2B"]] == ["20200610"]


def test_brackets_capitals_and_spaces_of_names_are_found_and_hidden_files_are_not(tmp_path):
    folder = tmp_path / "s 2 [é]"
    folder.mkdir()
    for name in ("[x] a_20200410.tif", "[x] a_20200510.TIF", "._[x] a_20200410.tif"):
        (folder / name).touch()
    found = find_files(tmp_path, "s 2 [é]/[x] {scene}_{date}.tif")
    assert [date for _, date, _ in found["a"]] == ["20200410", "20200510"]
    assert find_files(tmp_path, "s 2 [é]/*{scene}_{date}.tif").keys() == {"[x] a"}
    assert find_files(tmp_path, "**/{scene}_{date}.tif").keys() == {"[x] a"}


@pytest.mark.parametrize(("memory", "reads"), [(1 << 20, 3), (1 << 10, 12)])
def test_small_rasters_are_read_once_and_kept_while_the_memory_lasts(tmp_path, monkeypatch, memory, reads):
    """Three dates, four tiles: a file is read whole once, or, where it is too large to keep, in a window a tile."""
    write_series(tmp_path)
    description = {"files": "x", "tile": 40, "patch": 20, "modalities": {"s2": SERIES}}
    dataset = FolderDataset(description, tmp_path, memory=memory)
    count, read = [], RasterFile._read
    monkeypatch.setattr(RasterFile, "_read", lambda self, *window: count.append(window) or read(self, *window))
    found = [dataset[i].values["s2"].numpy() for i in range(4)]
    assert len(count) == reads
    for tile, (top, left) in zip(found, ((0, 0), (0, 4), (4, 0), (4, 4)), strict=True):
        for date in range(3):
            np.testing.assert_array_equal(tile[date], image(date)[:, top : top + 4, left : left + 4])
