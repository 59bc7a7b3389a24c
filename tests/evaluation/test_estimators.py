"""What scikit-learn learned and what torch makes of it are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.evaluation import Features
from fusion.evaluation.estimators import fit_estimator
from fusion.evaluation.penalties import linear_model
from fusion.evaluation.regressors import prepared

CLASSES = {"multiclass": ("a", "b", "c", "never"), "multilabel": ("x", "y", "z", "always"), "regression": ("h", "w")}


def features(task: str, rows: int = 90, seed: int = 0) -> Features:
    """Rows with 15 % of the values and one column missing; one class without a label, one that all rows have."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, rows)
    x = rng.normal(size=(rows, 6)) + kinds[:, None] * np.array([2, -1, 0, 1, 0, 0])
    x[rng.random(x.shape) < 0.15] = np.nan
    x[:, 4] = np.nan
    y = {
        "multiclass": kinds,
        "multilabel": np.stack([kinds == 0, kinds <= 1, rng.random(rows) < 0.5, kinds >= 0], 1).astype(np.float32),
        "regression": np.stack([1000 + 200 * kinds + rng.normal(size=rows), kinds + rng.normal(size=rows)], 1),
    }[task]
    return Features(x.astype(np.float32), y, tuple(map(str, range(rows))), task, CLASSES[task])


def wanted(kind: str, train: Features, test: Features) -> np.ndarray:
    """Probabilities or quantities of scikit-learn's own pipeline."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

    if kind == "linear":
        pipeline = prepared(linear_model(train.task, train.labels))
    else:
        of = RandomForestRegressor if train.task == "regression" else RandomForestClassifier
        share = 1 / 3 if train.task == "regression" else "sqrt"
        pipeline = prepared(of(200, max_features=share, random_state=0), standardise=False)
    labels = train.labels.astype(int) if train.task == "multilabel" else train.labels
    pipeline.fit(train.x.astype(np.float64), labels)
    x = test.x.astype(np.float64)
    if train.task == "regression":
        return pipeline.predict(x)
    told = pipeline.predict_proba(x)
    if train.task == "multiclass":
        return np.column_stack([told, np.zeros(len(x))])  # no label of the last
    if isinstance(told, list):  # a forest: one array a class
        return np.stack([part[:, -1] for part in told], axis=1)
    return told


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["linear", "forest"])
@pytest.mark.parametrize("task", list(CLASSES))
def test_torch_gives_the_numbers_of_scikit_learn(kind, task):
    train, test = features(task), features(task, seed=1)
    estimator = fit_estimator(kind, train).estimator
    out = estimator(torch.from_numpy(test.x))
    found = {"multiclass": lambda o: o.softmax(1), "multilabel": torch.sigmoid, "regression": lambda o: o}[task](out)
    assert out.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), wanted(kind, train, test), rtol=1e-6, atol=1e-6)


def test_two_classes_of_three_are_told_apart_by_one_score():
    train = features("multiclass")
    two = train.subset(np.flatnonzero(train.labels != 1))
    fitted = fit_estimator("linear", two)
    told = fitted.estimator(torch.from_numpy(train.x)).softmax(1).numpy()
    assert told[:, [1, 3]].max() == 0
    assert fitted.notes[0] == "no labelled tile of b, never: never predicted, F1 0 where it occurs"


def test_a_threshold_that_float32_cannot_hold_sends_every_value_where_it_belongs():
    third = np.float32(1000 / 3)
    above = np.nextafter(third, np.float32(1000))
    x = np.repeat([[third], [above]], 10, axis=0)  # the threshold lies between two neighbours of float32
    train = Features(x, np.repeat([0, 1], 10), tuple(map(str, range(20))), "multiclass", ("low", "high"))
    told = fit_estimator("forest", train).estimator(torch.from_numpy(x)).argmax(1)
    assert told.tolist() == [0] * 10 + [1] * 10


def test_quantities_choose_their_penalty_on_whole_blocks():
    """20 blocks whose features are their own: single rows know their neighbours, blocks do not."""
    rng = np.random.default_rng(0)
    block = np.arange(200) // 10
    own = rng.normal(size=(20, 30))[block] + 0.05 * rng.normal(size=(200, 30))
    target = rng.normal(size=20)[block][:, None]
    train = Features(own.astype(np.float32), target, tuple(map(str, range(200))), "regression", ("h",))
    single, blocked = (fit_estimator("linear", train, groups=groups).setting["ridge"] for groups in (None, block))
    assert blocked > 10 * single


def test_another_estimator_is_refused():
    with pytest.raises(ValueError, match="'linear' or 'forest', not 'knn'"):
        fit_estimator("knn", features("multiclass"))
