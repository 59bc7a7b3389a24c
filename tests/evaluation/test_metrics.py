"""Scores are those of the papers, and refuse to score what tells nothing."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassF1Score, MultilabelF1Score
from torchmetrics.regression import MeanSquaredError, R2Score

from fusion.evaluation import Spread, per_class, score
from fusion.evaluation.metrics import confusion

RNG = np.random.default_rng(0)


def test_the_originals_numbers(golden):
    """G10 of the original system: F1 of a toy example, macro, micro and weighted."""
    case = golden("omnisat")["metric_f1"]
    scores = score("multilabel", np.array(case["labels"]), np.array(case["logits"]) > 0)
    for average in ("macro", "micro", "weighted"):
        assert scores[f"{average}_f1"] == pytest.approx(case[f"F1_Score_{average}"], abs=1e-6)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_f1_agrees_with_torchmetrics(average):
    target, prediction = RNG.integers(0, 4, 60), RNG.integers(0, 4, 60)
    theirs = MulticlassF1Score(4, average=average)(torch.tensor(prediction), torch.tensor(target))
    assert score("multiclass", target, prediction)[f"{average}_f1"] == pytest.approx(float(theirs), abs=1e-6)
    target, prediction = RNG.integers(0, 2, (60, 4)), RNG.integers(0, 2, (60, 4))
    theirs = MultilabelF1Score(4, average=average)(torch.tensor(prediction), torch.tensor(target))
    assert score("multilabel", target, prediction)[f"{average}_f1"] == pytest.approx(float(theirs), abs=1e-6)


def test_regression_agrees_with_torchmetrics():
    target = RNG.normal(size=(30, 2))
    prediction = target + 0.3 * RNG.normal(size=(30, 2))
    scores = score("regression", target, prediction)
    a, b = torch.tensor(prediction), torch.tensor(target)
    assert scores["r2"] == pytest.approx(float(R2Score()(a, b)), rel=1e-5)
    columns = [float(MeanSquaredError(squared=False)(a[:, k], b[:, k])) for k in range(2)]
    assert scores["rmse"] == pytest.approx(np.mean(columns), rel=1e-5)


def test_a_class_nobody_has_and_nobody_predicts_is_left_out():
    target, prediction = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    scores = score("multiclass", target, prediction)
    assert scores["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    table = per_class("multiclass", target, prediction, ("a", "b", "c"))
    assert np.isnan(table["c"]["f1"])
    assert table["c"]["support"] == 0
    assert table["a"] == {"f1": pytest.approx(0.8), "precision": pytest.approx(2 / 3), "recall": 1.0, "support": 2}
    wrong = score("multiclass", target, np.array([0, 0, 1, 2]))  # predicted though absent: counts as 0
    assert wrong["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_each_regression_target_has_its_scores():
    target = np.stack([np.arange(5.0), 10 * np.arange(5.0)], 1)
    table = per_class("regression", target, target + 1, ("biomass", "height"))
    assert table["biomass"]["rmse"] == pytest.approx(1)
    assert table["height"]["r2"] == pytest.approx(1 - 5 / 1000)


@pytest.mark.parametrize(
    ("task", "target", "prediction", "message"),
    [
        ("multiclass", [1, 1, 1], [1, 1, 0], "all 3 tiles of the test split are of class 1"),
        ("multilabel", [[1, 0], [1, 0]], [[1, 0], [1, 1]], "no class is present in some and absent in others"),
        ("regression", [2.0, 2.0], [1.0, 2.0], "constant over all 2 test tiles, so R2 is undefined"),
        ("regression", [2.0], [1.0], "R2 is undefined"),
        ("regression", [2.0, 3.0], [1.0, np.nan], "1 of 2 predictions are not finite"),
        ("multiclass", [0, 1], [0, 1, 1], r"targets \(2,\) and predictions \(3,\) must match"),
        ("segmentation", [0, 1], [0, 1], "task is 'multilabel', 'multiclass' or 'regression', not 'segmentation'"),
    ],
)
def test_a_split_that_tells_nothing_is_refused(task, target, prediction, message):
    with pytest.raises(ValueError, match=message):
        score(task, np.array(target), np.array(prediction))


def test_a_spread_is_mean_and_sample_deviation():
    assert str(Spread.of([0.5])) == "0.500"
    assert str(Spread.of([0.4, 0.6])) == "0.500 ± 0.141"


def test_a_confusion_matrix_has_the_reference_in_rows():
    counts = confusion("multiclass", np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), 3)
    assert counts.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    several = confusion("multilabel", np.array([[0, 1], [1, 1], [0, 0]]), np.array([[1, 1], [1, 0], [1, 0]]), 2)
    assert several.tolist() == [[[0, 2], [0, 1]], [[1, 0], [1, 1]]]
    assert confusion("regression", np.arange(3.0), np.arange(3.0), 1) is None
