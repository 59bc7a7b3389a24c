import numpy as np
import pytest

from fusion.data.folder import read_cubes

DESCRIPTION = {
    "files": "{scene}.npz",
    "tile": 40,
    "patch": 20,
    "modalities": {
        "fine": {
            "variable": "fine",
            "bands": ["red", "nir"],
            "resolution": 10,
            "unit": "reflectance x 10000",
            "nodata": 0,
            "dates": "dates",
            "mask": {"variable": "scl", "resolution": 20, "classes": [4, 5]},
            "optional": True,
        },
        "coarse": {
            "variable": "coarse",
            "bands": ["swir"],
            "resolution": 20,
            "unit": "reflectance x 10000",
            "nodata": 0,
            "dates": "dates",
        },
        "radar": {"variable": "radar", "bands": ["VV"], "resolution": 20, "unit": "dB", "dates": "radar_dates"},
    },
    "georeference": {"epsg": "epsg", "x": "x", "y": "y"},
}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "fine": rng.integers(1, 5000, (3, 2, 8, 12)).astype(np.uint16),
        "coarse": rng.integers(1, 5000, (3, 1, 4, 6)).astype(np.uint16),
        "scl": rng.integers(3, 6, (3, 4, 6)).astype(np.uint8),
        "radar": rng.normal(-15, 2, (2, 1, 4, 6)).astype(np.float32),
        "dates": np.array(["2020-03-20", "2020-03-01", "2020-04-09"]),
        "radar_dates": np.array(["2020-03-02", "2020-03-14"]),
        "epsg": np.array(32631),
        "x": 500_005 + 10.0 * np.arange(12),
        "y": 5_600_005 + 10.0 * np.arange(8),  # row 0 is south
    }
    np.savez(tmp_path / "a.npz", **arrays)
    coarse = {"x": 500_010 + 20.0 * np.arange(6), "y": 5_600_010 + 20.0 * np.arange(4)}
    np.savez(tmp_path / "b.npz", **{k: v for k, v in arrays.items() if k not in ("fine", "scl")} | coarse)
    return tmp_path, arrays


SENSORS = {"s2": ["fine", "coarse"], "s1": ["radar"]}


def test_bands_of_two_resolutions_become_one_sensor_on_the_finest_grid(folder):
    path, arrays = folder
    cube = read_cubes(DESCRIPTION, path, SENSORS, temporal_window=1)[0]
    s2 = cube.sensors["s2"]
    assert s2.modality.bands == ("red", "nir", "swir")
    assert cube.shape == (8, 12)
    assert s2.dates.astype(str).tolist() == ["2020-03-01", "2020-03-20", "2020-04-09"]
    order, north_up = [1, 0, 2], slice(None, None, -1)
    fine = arrays["fine"][order][:, :, north_up]
    coarse = arrays["coarse"][order][:, :, north_up].repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(s2.values[...], np.concatenate([fine, coarse], axis=1))
    clear = np.isin(arrays["scl"][order][:, north_up], [4, 5]).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(np.asarray(s2.clear), clear)
    assert cube.geo.transform == (10, 0, 500_000, 0, -10, 5_600_080)


def test_acquisitions_of_one_day_are_joined(tmp_path):
    """Two halves of a swath and a second look: a pixel has the first in which it was observed and clear."""
    values = np.stack([np.full((1, 4, 4), 100.0 * (k + 1)) for k in range(4)]).astype(np.float32)
    values[1, :, :, 2:] = np.nan  # the western half ...
    values[3, :, :, :1] = np.nan
    scl = np.full((4, 4, 4), 4, np.uint8)
    scl[1, 0] = 9  # ... with a cloudy north, where the second is clear
    scl[3, 3] = 9
    np.savez(
        tmp_path / "a.npz", s2=values, scl=scl,
        dates=np.array(["2020-03-20", "2020-03-01", "2020-04-09", "2020-03-01"]),
    )  # fmt: skip
    s2 = {
        "variable": "s2", "bands": ["a"], "resolution": 10, "dates": "dates",
        "mask": {"variable": "scl", "classes": [4]},
    }  # fmt: skip
    description = {"files": "{scene}.npz", "tile": 20, "patch": 10, "modalities": {"s2": s2}}
    sensor = read_cubes(description, tmp_path)[0].sensors["s2"]
    assert sensor.dates.astype(str).tolist() == ["2020-03-01", "2020-03-20", "2020-04-09"]
    wanted = np.full((4, 4), 200.0)
    wanted[:, 2:] = 400
    wanted[0, 1:] = 400
    assert np.array_equal(sensor.values[0:1][0, 0], wanted)
    assert np.array_equal(sensor.values[...][:, 0], np.stack([wanted, np.full((4, 4), 100), np.full((4, 4), 300)]))
    assert sensor.clear[...].all()  # every pixel in one of its acquisitions
    assert np.array_equal(sensor.values[[True, False, True]][:, 0, 3, 3], [400, 300])


def test_the_place_of_a_cube_in_degrees(tmp_path):
    degrees = {"epsg": 4326, "x": "lon", "y": "lat"}
    np.savez(
        tmp_path / "a.npz", s2=np.ones((1, 1, 4, 6), np.uint16), dates=np.array(["2020-03-20"]),
        lon=11 + 0.0002 * (np.arange(6) + 0.5), lat=47 - 0.0001 * (np.arange(4) + 0.5),
    )  # fmt: skip
    s2 = {"variable": "s2", "bands": ["a"], "resolution": 10, "dates": "dates"}
    description = {"files": "{scene}.npz", "tile": 20, "patch": 10, "modalities": {"s2": s2}, "georeference": degrees}
    geo = read_cubes(description, tmp_path)[0].geo
    assert geo.crs == "EPSG:4326"
    assert geo.transform == pytest.approx((0.0002, 0, 11, 0, -0.0001, 47))


def test_the_former_name_of_the_temporal_window_is_understood(folder):
    path, _ = folder
    former, now = (read_cubes(DESCRIPTION, path, SENSORS, **how)[0] for how in ({"looks": 1}, {"temporal_window": 1}))
    np.testing.assert_array_equal(former.sensors["s1"].values[...], now.sensors["s1"].values[...])


def test_a_window_is_the_same_as_a_window_of_everything(folder):
    path, _ = folder
    cube = read_cubes(DESCRIPTION, path, SENSORS, temporal_window=1)[0]
    for sensor in cube.sensors.values():
        values, observed = sensor.read(slice(0, 8), slice(0, 12), margin=3)
        part, seen = sensor.read(slice(3, 6), slice(5, 12), margin=3)
        np.testing.assert_array_equal(part, values[..., 3:12, 5:18])
        np.testing.assert_array_equal(seen, observed[..., 3:12, 5:18])


def test_a_modality_that_a_scene_lacks_is_not_observed_there(folder):
    path, _ = folder
    cube = read_cubes(DESCRIPTION, path, SENSORS)[1]
    _, observed = cube.sensors["s2"].read(slice(0, 8), slice(0, 12))
    assert observed.any(axis=(0, 2, 3)).tolist() == [False, False, True]


def test_backscatter_is_calmed(folder):
    path, arrays = folder
    s1 = read_cubes(DESCRIPTION, path, SENSORS, temporal_window=3)[0].sensors["s1"]
    power = (10 ** (arrays["radar"] / 10)).mean(0)  # two dates: both means are over both
    np.testing.assert_allclose(s1.values[...][1, :, ::2, ::2], 10 * np.log10(power)[:, ::-1], rtol=1e-5)


def test_refuses_parts_with_different_dates(folder):
    path, _ = folder
    with pytest.raises(ValueError, match="different dates"):
        read_cubes(DESCRIPTION, path, {"mixed": ["fine", "radar"]})


def test_reads_real_patches(data_dir):
    folder = data_dir("worldcereal_patches")
    from fusion.presets import __path__ as presets

    cubes = read_cubes(f"{presets[0]}/data/worldcereal.yaml", folder, {"s2": ["s2", "s2-20m"], "s1": ["s1"]})
    raw = np.load(folder / "00002806639B424A.npz")
    values, observed = cubes[0].sensors["s2"].read(slice(10, 20), slice(30, 41))
    clear = np.isin(raw["s2_20m_scl"], [4, 5, 6, 7]).repeat(2, 1).repeat(2, 2)[:, 10:20, 30:41]
    np.testing.assert_array_equal(observed[:, 0], clear & (raw["s2_10m"][:, 0, 10:20, 30:41] > 0))
    np.testing.assert_array_equal(values[:, 3], raw["s2_10m"][:, 3, 10:20, 30:41] * observed[:, 3])
    swir = raw["s2_20m"][:, 5].repeat(2, 1).repeat(2, 2)[:, 10:20, 30:41]
    np.testing.assert_array_equal(values[:, 9], swir * observed[:, 9])
