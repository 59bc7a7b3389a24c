"""The Gaussian process: a line, a smooth part, and a choice between it and others that sees no row to be predicted."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.evaluation.gaussian import LARGEST, gaussian_process, on_some_rows
from fusion.evaluation.regression import _preferred, predict, report, scores
from fusion.evaluation.rows import Rows

SETTINGS = {"steps": 5, "dropout": 0.0}


def test_it_goes_on_with_a_line_and_bends_within_what_it_saw():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    target = 3 * x[:, 0] + 2 * np.cos(2 * x[:, 1])
    fitted = gaussian_process(2).fit(x, target)
    inside = rng.normal(size=(200, 2))
    assert scores(3 * inside[:, 0] + 2 * np.cos(2 * inside[:, 1]), fitted.predict(inside))["r2"] > 0.8
    far, farther = fitted.predict(np.array([[4.0, 0.0], [8.0, 0.0]]))
    assert 6 < farther - far < 14  # 12 without shrinking; a smooth part alone would fall back to the mean


def test_it_learns_from_at_most_so_many_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(LARGEST + 500, 1))
    few = np.arange(600)
    target = x[:, 0] * 2
    np.testing.assert_allclose(on_some_rows(x, target)(few, few), target[few], atol=0.3)
    kept = np.random.default_rng(3).permutation(len(x))[:LARGEST]
    hidden = np.full(len(x), np.nan)  # a row that is not drawn would stop the fit
    hidden[kept] = target[kept]
    assert np.isfinite(on_some_rows(x, hidden, seed=3)(np.arange(len(x)), few)).all()


def rows_of(raw: bool) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Rows at six places whose target is in the embedding, or in the raw values; the other ones are noise."""
    rng = np.random.default_rng(0)
    told, noise = rng.normal(size=(180, 4)), rng.normal(size=(180, 4))
    target = told @ [2.0, -1.0, 0.5, 0.0] + 5
    place, day = np.repeat([f"p{k}" for k in range(6)], 30), np.tile(np.arange(30) * 10 + 18_000, 6)
    embedding, beside = (noise, told) if raw else (told, noise)
    return Rows(beside[:, :3], beside[:, 3:], place, day, target), embedding, beside


def test_targets_to_be_predicted_are_not_seen_and_the_model_is_of_its_choices():
    rows, embedding, beside = rows_of(raw=True)
    train, test = np.flatnonzero(rows.place != "p5"), np.flatnonzero(rows.place == "p5")
    hidden = Rows(rows.bands, rows.more, rows.place, rows.day, rows.target.copy())
    hidden.target[test] = np.nan
    found = predict(hidden, embedding, train, test, SETTINGS, repeats=1, beside=beside)
    assert scores(rows.target[test], found["process_all"])["r2"] > 0.9
    np.testing.assert_array_equal(found["model"], found["embedding_process"])  # the only one that sees the cause well


@pytest.mark.parametrize("good", ["a", "b"])
def test_held_out_places_choose_whose_mean_is_best(good):
    rows, _, _ = rows_of(raw=True)

    def knows(train, test):
        assert not set(rows.place[train]) & set(rows.place[test])
        return rows.target[test]

    def mean(train, test):
        return np.full(len(test), rows.target[train].mean())

    regressors = {name: knows if name == good else mean for name in ("a", "b")}
    assert _preferred((("a", "b"), ("a",), ("b",)), regressors, rows, np.arange(len(rows))) == (good,)
    one_place = np.arange(30)
    assert _preferred((("a", "b"), ("a",), ("b",)), regressors, rows, one_place) == ("a", "b")


def test_intervals_are_of_whole_places():
    rows, _, _ = rows_of(raw=True)
    guess = rows.target + np.repeat(np.array([0, 0, 0, 0, 0, 3.0]), 30)  # wrong at one place
    found, _ = report(rows, {"model": guess, "forest": rows.target}, "test", quantity="GPP", unit="g")
    assert found["forest"]["r2_low"] == found["forest"]["r2_high"] == 1.0
    assert found["model"]["r2_low"] < found["model"]["r2"] < found["model"]["r2_high"] == 1.0
