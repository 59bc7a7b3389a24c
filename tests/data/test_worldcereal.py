"""The description of WorldCereal's patches fits patches of any name, with what each of them has."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.data import FolderDataset
from fusion.data.check import check
from fusion.data.folder import read_cubes
from fusion.experiments.context.worldcereal.data import open_patches

SENSORS = {"s2": ["s2", "s2-20m"], "s1": ["s1"], "landsat": ["surface-temperature"]}


def patch(path, *, radar=True, crop=1200, east=500_000, **extra):
    """160 m x 160 m, four dates."""
    rng = np.random.default_rng(0)
    dates = np.array([b"2019-11-03", b"2019-12-11", b"2020-01-08", b"2020-02-17"])
    arrays = {
        "s2_10m": rng.integers(500, 4000, (4, 4, 16, 16)).astype(np.uint16),
        "s2_10m_dates": dates,
        "s2_20m": rng.integers(500, 4000, (4, 6, 8, 8)).astype(np.uint16),
        "s2_20m_scl": np.full((4, 8, 8), 4, dtype=np.uint8),
        "s2_20m_dates": dates,
        "ct": np.full((16, 16), crop, dtype=np.int16),
        "lc": np.full((16, 16), 11, dtype=np.int16),
        "epsg": np.int32(32719),
        "bounds": np.array([east, 6_000_000, east + 160, 6_000_160]),
    }
    if radar:
        arrays |= {"s1": rng.integers(-2500, -500, (4, 2, 8, 8)).astype(np.int16), "s1_dates": dates}
    np.savez(path, **arrays | extra)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two patches without Landsat and weather, one without radar, and a monthly cube, which is something else."""
    folder = tmp_path_factory.mktemp("patches")
    patch(folder / "AR-17.npz")
    patch(folder / "e83fc0.npz", radar=False, crop=9120, east=510_000)
    np.savez(folder / "pampa_monthly_2020-01.npz", s1=np.zeros((1, 2, 4, 4), np.uint16), months=np.array([b"2020-01"]))
    return folder


def test_patches_of_any_name_open_with_what_they_have(folder):
    tiles = FolderDataset("worldcereal", folder)
    assert [scene.name for scene in tiles.scenes] == ["AR-17", "e83fc0"]
    assert [m.name for m in tiles.modalities] == ["s2", "s2-20m", "s1"]
    assert len(tiles) == 8
    assert set(tiles[0].values) == {"s2", "s2-20m", "s1"}
    assert set(tiles[4].values) == {"s2", "s2-20m"}
    assert [tiles.classes[k] for k in tiles.labels()[[0, 4]]] == ["maize", "grass"]
    assert "surface-temperature, weather: in none of 2 scenes, so left out" in check(tiles).warnings


def test_cubes_leave_out_a_sensor_that_no_patch_has(folder):
    cubes = read_cubes("worldcereal", folder, SENSORS)
    assert [sorted(cube.sensors) for cube in cubes] == [["s1", "s2"], ["s2"]]
    assert cubes[0].sensors["s2"].modality.channels == 10


def test_a_modality_that_is_asked_for_and_in_no_patch_is_refused(folder):
    with pytest.raises(ValueError, match="modality 'surface-temperature' is in none of 2 scenes; leave it out"):
        FolderDataset("worldcereal", folder, ["s2", "surface-temperature"])


def test_scenes_are_left_out_by_patterns_of_their_names(folder):
    from fusion.data.folder.loading import PRESETS, load_description
    from fusion.yaml_loader import load_yaml

    described = load_yaml(PRESETS / "worldcereal.yaml") | {"exclude": ["*_monthly_*", "e83*"]}
    assert [s.name for s in FolderDataset(load_description(described), folder).scenes] == ["AR-17"]
    with pytest.raises(ValueError, match="no file matches"):
        FolderDataset(described | {"exclude": "*"}, folder)


def test_the_experiments_patches_are_opened_by_the_description(folder, data_dir):
    parts, words = open_patches(data_dir("worldcereal_patches"))
    assert [sorted(cube.sensors) for cube in parts["all"]] == [["landsat", "s1", "s2"]] * 3
    assert words.startswith("3 patches of 64 x 64 pixels: 00002806639B424A (s2 118, s1 159, landsat 55 dates), ")
