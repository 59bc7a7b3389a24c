"""The crop probe: what it may know, and what it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fusion.experiments.context.worldcereal import crops
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
    return crops.Pixels(x, column // 4 % 2 == 1, patch, 16 * row + column, block)


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
    part = crops.Pixels(hidden, pixels.test, pixels.patch, pixels.place, pixels.block)
    labelled = crops.label(state, part, "crop type", 60, 1)
    assert crops.score_months(labelled, hidden["fused"])["macro_f1"][0, 0] > 0.95
