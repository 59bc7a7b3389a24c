"""Options of readers that can mean nothing are refused by name, before any file is opened."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusion.data import FolderDataset, Landscape, LandscapeTiles, TreeSatDataset
from fusion.data.check import check
from fusion.data.flair import FlairDataset
from fusion.data.folder import read_cubes
from fusion.data.limits import check_count, check_names, check_share, check_size

from .described_folder import DESCRIPTION, rewrite


@pytest.mark.parametrize("value", [-1, 0, 0.5, math.nan, math.inf, "3", [1], True, 10**30, 1e300])
def test_counts_that_are_none_are_refused(tmp_path, value):
    message = "max_dates is a whole number of at least 1 or None, not "
    for reader in (TreeSatDataset, FlairDataset):
        with pytest.raises(ValueError, match=f"{reader.__name__}: {message}"):
            reader(tmp_path, max_dates=value)
    with pytest.raises(ValueError, match=f"FolderDataset: {message}"):
        FolderDataset(DESCRIPTION, tmp_path, max_dates=value)
    with pytest.raises(ValueError, match="read_cubes: temporal_window is a whole number of at least 1, not "):
        read_cubes(DESCRIPTION, tmp_path, temporal_window=value)


@pytest.mark.parametrize("value", [-0.1, 50, math.nan, math.inf, "0.2", [0.2], True, None])
def test_shares_that_are_none_are_refused(tmp_path, value):
    with pytest.raises(ValueError, match="TreeSatDataset: max_cloud is a share, 0 to 1, not "):
        TreeSatDataset(tmp_path, max_cloud=value)
    with pytest.raises(ValueError, match="LandscapeTiles: max_cloud is a share, 0 to 1, not "):
        LandscapeTiles(Landscape(size=64), max_cloud=value)


@pytest.mark.parametrize("value", [-1, 0, math.nan, math.inf, "170", None, True])
def test_sizes_that_are_none_are_refused(value):
    with pytest.raises(ValueError, match="Landscape: field_metres is a finite number above 0, not "):
        Landscape(field_metres=value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed is a whole number of at least 0"),
        ({"seed": None}, "seed is a whole number of at least 0"),
        ({"memory": math.nan}, "memory is a whole number of at least 0"),
        ({"modalities": "s2"}, "modalities is a list of names, not 's2'"),
        ({"modalities": 3}, "modalities is a list of names, not 3"),
    ],
)
def test_other_options_of_a_described_folder(tmp_path, options, message):
    with pytest.raises(ValueError, match=f"FolderDataset: {message}"):
        FolderDataset(DESCRIPTION, tmp_path, **options)


def test_tiles_of_a_check_are_counted(tmp_path):
    rewrite(tmp_path)
    with pytest.raises(ValueError, match="check: tiles is a whole number of at least 1 or None, not -1"):
        check(FolderDataset(DESCRIPTION, tmp_path), -1)


def test_numbers_of_numpy_are_numbers():
    check_count("x", "n", np.int64(3))
    check_share("x", "s", np.float32(0.5))
    check_size("x", "m", 10**400)
    check_names("x", "names", np.array(["a", "b"]))
