"""The crop probe: what it may know, and what it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.data import Cube, Geo, Modality
from fusion.data.cubes import SensorCube
from fusion.experiments.context.worldcereal import crops
from fusion.experiments.context.worldcereal.months import NORTH, SOUTH, clearest, names, season
from fusion.workflow.state import State

CLASSES = ("maize", "grass")


@pytest.fixture(scope="module")
def pixels() -> crops.Pixels:
    """Two patches of 16 x 16 pixels; one feature tells the class, the other nothing."""
    rng = np.random.default_rng(0)
    row, column = (np.tile(axis.ravel(), 2) for axis in np.mgrid[:16, :16])
    patch = np.repeat(["a", "b"], 256)
    told = (row // 4 % 2)[None, :, None] + 0.1 * rng.normal(size=(6, 512, 1))
    block = np.array([f"{p} {r // 4} {c // 4}" for p, r, c in zip(patch, row, column, strict=True)])
    x = {"fused": told, "raw": rng.normal(size=(6, 512, 1))}
    return crops.Pixels(x, column // 4 % 2 == 1, patch, 16 * row + column, block, NORTH)


@pytest.fixture(scope="module")
def state() -> State:
    kinds = np.where(np.mgrid[:16, :16][1] == 0, -1, np.mgrid[:16, :16][0] // 4 % 2)  # the first column has no label
    return State(Path(), 0, {"labels": {"crop type": ({"a": kinds, "b": kinds}, CLASSES)}})


def test_draws_are_labelled_training_pixels_and_more_draws_change_none(state, pixels):
    labelled = crops.label(state, pixels, "crop type", 30, 2)
    assert labelled.draws.sum(axis=1).tolist() == [60, 60]
    assert not (labelled.draws & (pixels.test | (labelled.y < 0))).any()
    assert (labelled.test == pixels.test).all()
    assert (labelled.draws[0] != labelled.draws[1]).any()
    more = crops.label(state, pixels, "crop type", 30, 3)
    np.testing.assert_array_equal(more.draws[:2], labelled.draws)


def test_scores_tell_what_knows_the_class_from_what_does_not(state, pixels):
    labelled = crops.label(state, pixels, "crop type", 60, 2)
    told, noise = (crops.score_months(labelled, pixels.x[kind]) for kind in ("fused", "raw"))
    assert told["macro_f1"].shape == (2, 6)
    assert told["macro_f1"].min() > 0.95
    assert noise["macro_f1"].mean() < 0.65
    assert crops.summary(told)["macro_f1"] == pytest.approx(told["macro_f1"].mean())


def test_pixels_that_the_reference_did_not_see_are_left_out_for_all(state, pixels):
    hidden = {k: v.copy() for k, v in pixels.x.items()}
    hidden["fused"][0, ::2] = np.nan
    hidden["raw"][0, ::2] = 1e6  # would spoil the probe
    part = crops.Pixels(hidden, pixels.test, pixels.patch, pixels.place, pixels.block, NORTH)
    labelled = crops.label(state, part, "crop type", 60, 1)
    assert crops.score_months(labelled, hidden["fused"])["macro_f1"][0, 0] > 0.95


def test_a_month_with_one_class_is_left_out_and_named(state, pixels):
    maps = state.data["labels"]["crop type"][0]
    seen = {k: v.copy() for k, v in pixels.x.items()}
    grass = np.concatenate([maps["a"].ravel(), maps["b"].ravel()]) == 1
    seen["fused"][2, ~grass] = np.nan  # June shows grass alone
    seen["fused"][4] = np.nan  # August was cloudy
    part = crops.Pixels(seen, pixels.test, pixels.patch, pixels.place, pixels.block, NORTH)
    labelled = crops.label(state, part, "crop type", 60, 2)
    assert (labelled.months, labelled.left_out) == (("04", "05", "07", "09"), ("06", "08"))
    whole = crops.label(state, pixels, "crop type", 60, 2)
    scores = crops.score_months(labelled, seen["fused"])["macro_f1"]
    np.testing.assert_array_equal(scores, crops.score_months(whole, pixels.x["fused"])["macro_f1"][:, [0, 1, 3, 5]])
    assert "4 months (04, 05, 07, 09)" in crops.describe(labelled)
    assert "Left out for want of clear dates or a second class: 06, 08." in crops.describe(labelled)
    assert "Left out" not in crops.describe(whole)
    seen["fused"][:, ~grass] = np.nan
    with pytest.raises(ValueError, match="crop type: no month of 04, 05, 06, 07, 08, 09 has clear dates with two cl"):
        crops.label(state, part, "crop type", 60, 2)


def test_the_season_is_that_of_the_hemisphere():
    def cube(crs: str | None, north: float) -> Cube:
        geo = None if crs is None else Geo((10.0, 0.0, 500_000.0, 0.0, -10.0, north), crs)
        values = np.ones((1, 1, 8, 8), np.float32)
        s2 = SensorCube(Modality("s2", "series", ("B04",), 10.0, 1), np.array([18_000]), values)
        return Cube("patch", {"s2": s2}, geo)

    belgium, pampa = cube("EPSG:32631", 5_600_000.0), cube("EPSG:32720", 6_100_000.0)
    assert [season(c) for c in (belgium, pampa, cube(None, 0.0))] == [NORTH, SOUTH, NORTH]
    assert names([belgium, belgium]) == NORTH
    assert names([belgium, pampa])[:2] == ("04/10", "05/11")
    assert names([belgium, pampa], ["06", "07"]) == ("06", "07")


def test_each_month_has_the_clearest_date_of_the_last_season():
    dates = np.array(["2018-12-05", "2019-01-09", "2019-10-20", "2019-11-03", "2019-11-23", "2020-01-08", "2020-01-30",
                      "2020-02-11", "2020-03-01", "2020-10-09"], "datetime64[D]")  # fmt: skip
    share = np.array([1, 1, 0.2, 0.4, 0.3, 0.5, 0.9, 0.0, 0.7, 1])
    assert clearest(dates, share, SOUTH) == [2, 3, None, 6, None, 8]  # Dec 2019 has no date, February no clear pixel
    assert clearest(dates, share, NORTH) == [None] * 6
    assert clearest(dates, share, ("01", "10")) == [6, 9]
