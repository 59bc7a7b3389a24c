"""The chance level is what scikit-learn's classifier without knowledge scores."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.dummy import DummyClassifier, DummyRegressor

from fusion.evaluation import Row, Table, score
from fusion.evaluation.chance import chance_by_class, chance_scores
from fusion.evaluation.metrics import confusion, per_class
from fusion.evaluation.plots import class_bars, label_efficiency, modality_bars
from fusion.evaluation.probes import ProbeResult
from fusion.workflow import scores

RNG = np.random.default_rng(0)
TRUTH = RNG.choice(4, 200, p=[0.5, 0.3, 0.2, 0.0])  # one class never occurs
SAID = np.where(RNG.random(200) < 0.7, TRUTH, RNG.integers(0, 3, 200))
NAMES = ("wheat", "maize", "beet", "rye")


def result() -> ProbeResult:
    counts = confusion("multiclass", TRUTH, SAID, 4)
    told = per_class("multiclass", TRUTH, SAID, NAMES)
    return ProbeResult("linear", score("multiclass", TRUTH, SAID), told, TRUTH, SAID, 20, confusion=counts)


def test_it_is_always_the_commonest_class():
    blind = DummyClassifier(strategy="most_frequent").fit(TRUTH[:, None], TRUTH).predict(TRUTH[:, None])
    chance = chance_scores(confusion("multiclass", TRUTH, SAID, 4), NAMES)
    for metric, value in score("multiclass", TRUTH, blind).items():
        assert chance.scores[metric] == pytest.approx(value), metric
    assert chance.scores["miou"] == pytest.approx((TRUTH == 0).mean() / 3)  # of three classes that are there
    assert chance.told == "always wheat, the commonest class of the test labels"


def test_of_several_classes_a_tile_it_says_those_of_most_tiles():
    truth = (RNG.random((100, 3)) < (0.8, 0.55, 0.1)).astype(int)
    blind = np.broadcast_to((truth.mean(0) > 0.5).astype(int), truth.shape)
    chance = chance_scores(confusion("multilabel", truth, truth, 3))
    for metric, value in score("multilabel", truth, blind).items():
        assert chance.scores[metric] == pytest.approx(value), metric


def test_of_quantities_it_is_the_mean():
    truth = RNG.normal(size=100)
    reached = score("regression", truth, truth + RNG.normal(size=100) / 2)
    blind = DummyRegressor().fit(truth[:, None], truth).predict(truth[:, None])
    known = score("regression", truth, blind)
    chance = chance_scores(None, reached=reached).scores
    assert chance["r2"] == 0
    assert chance["rmse"] == pytest.approx(known["rmse"])
    assert "rmse" not in chance_scores(None, reached=reached, targets=2).scores


def test_of_one_class_it_is_that_class_everywhere():
    support = dict(zip(NAMES, np.bincount(TRUTH, minlength=4).tolist(), strict=True))
    found = chance_by_class(support, 200)
    everywhere = per_class("multiclass", TRUTH, np.ones(200, int), NAMES)["maize"]
    assert found["maize"]["f1"] == pytest.approx(everywhere["f1"])
    assert found["maize"]["iou"] == pytest.approx((TRUTH == 1).mean())


def test_tables_end_with_it():
    table = scores.table({"pretrained": [Row("pretrained", ("s2",), 0.1, 0, result())]}, "Ten.")
    assert isinstance(table, Table)
    chance = dict(zip(table.columns, table.rows[-1], strict=True))
    assert chance["features"] == "chance level"
    assert chance["accuracy"] == pytest.approx((TRUTH == 0).mean())
    assert table.caption == "Ten. Chance level: always wheat, the commonest class of the test labels."


def test_curves_and_bars_say_what_their_dashed_line_is():
    rows = [Row("raw", (name,), fraction, 0, result()) for name in ("s1", "s2") for fraction in (0.1, 1.0)]
    for picture in (label_efficiency(rows[:2]), modality_bars(rows)):
        assert "Dashed: the chance level, always wheat, the commonest class of the test labels." in picture.caption
    assert "Dashed: what saying that class everywhere" in class_bars({"raw": result().per_class}).caption
