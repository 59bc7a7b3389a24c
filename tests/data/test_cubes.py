"""Whole cubes: what was observed, its statistics, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.data import Cube, Modality, SensorCube
from fusion.data.cubes import observed_statistics, smooth_backscatter

S2 = Modality("s2", "series", ("B04", "B08", "B11"), 10.0, 1, "reflectance x 10000")
S1 = Modality("s1", "series", ("VV", "VH"), 10.0, 1, "dB")


@pytest.fixture(scope="module")
def cube() -> Cube:
    """24 dates of 12 x 14 pixels, of which a third are clouded, and radar."""
    rng = np.random.default_rng(0)
    optical = SensorCube(
        S2,
        np.sort(rng.choice(300, 24, replace=False)) + 18_000,
        rng.normal(2000, 500, (24, 3, 12, 14)).astype(np.float32),
        rng.random((24, 12, 14)) > 0.3,
    )
    radar = SensorCube(S1, np.arange(18_012, 18_300, 12), rng.normal(-15, 2, (24, 2, 12, 14)).astype(np.float32))
    return Cube("plain", {"s2": optical, "s1": radar})


def test_dates_are_calendar_dates_however_they_are_given(cube):
    s1 = cube.sensors["s1"]
    assert str(s1.dates[0]) == "2019-04-26"
    assert s1.epoch_days[:2].tolist() == [18_012, 18_024]
    again = SensorCube(S1, s1.dates.astype("datetime64[ns]"), s1.values)
    assert again.dates.dtype == np.dtype("datetime64[D]")
    np.testing.assert_array_equal(again.dates, s1.dates)


def test_statistics_are_those_of_observed_values(cube):
    series = cube.sensors["s2"]
    fitted = observed_statistics([cube], S2)
    wanted = series.values.transpose(1, 0, 2, 3)[:, series.clear]
    np.testing.assert_allclose(fitted.mean, wanted.mean(1), rtol=1e-4)
    np.testing.assert_allclose(fitted.std, wanted.std(1), rtol=1e-3)
    left = observed_statistics([cube], S2, allowed=np.arange(14)[None].repeat(12, 0) < 7)
    wanted = series.values[..., :7].transpose(1, 0, 2, 3)[:, series.clear[..., :7]]
    np.testing.assert_allclose(left.mean, wanted.mean(1), rtol=1e-4)


def test_backscatter_is_averaged_in_linear_power():
    decibel = np.array([-10.0, -20.0, -10.0, np.nan, -10.0], dtype=np.float32)[:, None]
    smooth = smooth_backscatter(decibel)[:, 0]
    np.testing.assert_allclose(smooth[1], 10 * np.log10((0.1 + 0.01 + 0.1) / 3), rtol=1e-6)
    np.testing.assert_allclose(smooth[2], 10 * np.log10((0.01 + 0.1) / 2), rtol=1e-6)
    assert np.isnan(smooth[3])
    assert smooth[4] == pytest.approx(-10)


def test_empty_dates_are_skipped_and_listed(cube):
    values = cube.sensors["s2"].values.copy()
    values[[2, 5]] = np.nan
    broken = Cube("gaps", {"s2": SensorCube(S2, cube.sensors["s2"].dates, values)}).without_empty_dates()
    assert broken.skipped["s2"] == list(cube.sensors["s2"].dates[[2, 5]])
    assert len(broken.sensors["s2"].dates) == len(values) - 2
    with pytest.raises(ValueError, match=r"none of 24 dates has more than 100\.0%"):
        broken = Cube("empty", {"s2": SensorCube(S2, cube.sensors["s2"].dates, values)}).without_empty_dates(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dates": np.arange(5)}, r"values of shape .* wanted for 5 dates of B04, B08, B11"),
        ({"dates": np.zeros(24, int)}, "dates must increase"),
        ({"clear": np.ones((24, 3, 3), bool)}, "mask of shape"),
        ({"values": np.zeros((24, 3, 6, 7))}, "different grids"),
    ],
)
def test_refuses_cubes_that_do_not_fit(cube, change, message):
    s2 = cube.sensors["s2"]
    fields = {"dates": s2.dates, "values": s2.values, "clear": None} | change
    with pytest.raises(ValueError, match=message):
        Cube("wrong", {"s2": SensorCube(S2, **fields), "s1": cube.sensors["s1"]})
