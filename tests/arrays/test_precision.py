"""In which format arrays are computed, where nobody says it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import xarray as xr

import fusion
from fusion.embed import precision, trial

from .ground import CLASSES, S2, encoder, optical, saved, tuned


@pytest.fixture(scope="module")
def cube() -> xr.DataArray:
    return optical(72, 56)  # 108 tiles


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    model = encoder(S2)
    return saved(tmp_path_factory.mktemp("run"), model, tuned(model, "multiclass", CLASSES))


@pytest.fixture
def trials(monkeypatch):
    """A processor on which a trial finds bfloat16 faster; how many tiles each had."""
    counted: list[int] = []
    monkeypatch.setattr(precision, "bfloat16_unavailable", lambda device: "")
    monkeypatch.setattr(
        trial, "try_on", lambda told, batch: counted.append(len(batch)) or setattr(told, "precision", "bfloat16")
    )
    return counted


@pytest.mark.parametrize("lazy", [False, True])
def test_many_tiles_have_one_trial_before_they_are_computed(lazy, run, cube, trials):
    given = cube.chunk({"y": 24, "x": 28}) if lazy else cube
    model = fusion.load(run)
    found = model.embed(given, batch_size=3, block=12)
    assert trials == [1]  # before anything is computed
    expected = fusion.load(run, precision="bfloat16").embed(given, batch_size=3, block=12)
    np.testing.assert_array_equal(found.values, expected.values)
    exact = fusion.load(run, precision="float32").embed(given, batch_size=3, block=12)
    assert 0 < np.abs(found.values - exact.values).max() < 0.1
    assert trials == [1]


def test_predictions_have_a_trial_too(run, cube, trials):
    found = fusion.load(run).predict(cube, batch_size=1, overlap=0.25)
    expected = fusion.load(run, precision="bfloat16").predict(cube, batch_size=1, overlap=0.25)
    assert trials == [1]
    xr.testing.assert_identical(found, expected)


def test_few_tiles_and_unchecked_arrays_are_float32(run, cube, trials):
    exact = fusion.load(run, precision="float32")
    xr.testing.assert_identical(fusion.load(run).embed(cube), exact.embed(cube))
    unchecked = fusion.load(run).embed(cube, batch_size=1, check=False)
    assert not trials
    xr.testing.assert_identical(unchecked, exact.embed(cube, batch_size=1))


def test_what_a_trial_found_goes_along_to_other_processes(run, cube, trials):
    lazy = fusion.load(run).embed(cube.chunk({"y": 24}), batch_size=1, block=36)
    assert trials
    sent = pickle.loads(pickle.dumps(lazy))
    assert not torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(sent.values, lazy.values)
    assert trials == [1]
