"""What the search over folds finds is what scikit-learn finds when it fits every strength anew."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold

from fusion.evaluation.fold_search import FoldSearch, macro_f1
from fusion.evaluation.linear_classifiers import ShrunkDiscriminant
from fusion.evaluation.paths import DiscriminantPath, LogisticPath, RidgePath


def data(rows=60, features=8, targets=None, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) + 3.0
    weight = rng.normal(size=(features,) if targets is None else (features, targets))
    return x, x @ weight + rng.normal(size=(rows,) if targets is None else (rows, targets))


def classes(rows=90, features=8, seed=0):
    x, y = data(rows, features, targets=3, seed=seed)
    return x, np.array(["a", "b", "c"])[(y - y.mean(0)).argmax(1)]


@pytest.mark.parametrize("features", [8, 200], ids=["tall", "wide"])
@pytest.mark.parametrize("targets", [None, 2])
def test_a_ridge_path_is_a_ridge_regression_at_every_strength(features, targets):
    x, y = data(features=features, targets=targets)
    path = RidgePath([1e4, 1.0, 1e-2])
    for strength, guess in zip(path.strengths, path.predictions(x[:40], y[:40], x[40:]), strict=True):
        other = Ridge(strength).fit(x[:40], y[:40])
        np.testing.assert_allclose(guess, other.predict(x[40:]), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(path.estimator(strength).fit(x[:40], y[:40]).coef_, other.coef_)


def test_columns_that_repeat_each_other_or_never_vary_harm_no_ridge_path():
    x, y = data()
    x = np.column_stack([x, x, np.ones(len(x))])
    for guess in RidgePath([1.0, 1e-2]).predictions(x[:40], y[:40], x[40:]):
        assert np.isfinite(guess).all()
        assert np.corrcoef(guess, y[40:])[0, 1] > 0.9


def test_a_logistic_path_is_a_logistic_regression_at_every_strength():
    x, y = classes()
    path = LogisticPath([1e-3, 0.1, 10.0])
    for strength, guess in zip(path.strengths, path.predictions(x[:60], y[:60], x[60:]), strict=True):
        other = LogisticRegression(C=strength, max_iter=2000).fit(x[:60], y[:60]).predict(x[60:])
        assert (guess == other).mean() > 0.95


def test_a_logistic_path_of_several_classes_a_row_gives_each():
    x, y = data(targets=3)
    y = (y > y.mean(0)).astype(int)
    for guess in LogisticPath([0.1, 10.0], several=True).predictions(x[:40], y[:40], x[40:]):
        assert guess.shape == (20, 3)
        assert (guess == y[40:]).mean() > 0.8


@pytest.mark.parametrize("features", [8, 200], ids=["tall", "wide"])
def test_a_discriminant_path_is_a_discriminant_at_every_shrinkage(features):
    for x, y in (classes(features=features), (classes(features=features)[0], classes()[1] == "a")):
        path = DiscriminantPath([0.9, 0.1])
        for shrinkage, guess in zip(path.strengths, path.predictions(x[:60], y[:60], x[60:]), strict=True):
            np.testing.assert_array_equal(guess, ShrunkDiscriminant(shrinkage).fit(x[:60], y[:60]).predict(x[60:]))


@pytest.mark.parametrize("targets", [None, 2])
def test_scores_are_those_of_a_search_that_fits_every_strength_anew(targets):
    x, y = data(targets=targets)
    folds = list(KFold(4).split(x))
    strengths = np.logspace(4, -2, 7)
    scoring = "neg_mean_squared_error" if targets is None else "r2"
    other = GridSearchCV(Ridge(), {"alpha": strengths}, cv=folds, scoring=scoring).fit(x, y).cv_results_
    ours = FoldSearch([RidgePath(strengths)], folds).fit(x, y)
    np.testing.assert_allclose(ours.scores_.mean(1), other["mean_test_score"], rtol=1e-6)


def test_of_classes_the_best_of_all_paths_is_taken():
    x, y = classes()
    folds = list(KFold(4).split(x))
    search = FoldSearch([LogisticPath([1e-6, 1.0]), DiscriminantPath([1e-2])], folds).fit(x, y)
    assert search.scores_.shape == (3, 4)
    assert search.best_ == search.scores_.mean(1).argmax() > 0  # the strongest penalty has learned nothing
    assert set(search.penalty_) == {"C" if search.best_ == 1 else "shrinkage"}
    assert search.predict_proba(x).shape == (90, 3)


class Told(RidgePath):
    """Errs by what it is told, whatever it learned from."""

    def predictions(self, x, y, asked):
        yield from np.sqrt([[3.0, 1.0, 0.0], [2.0, 1.0, 1.0]][int(asked[0, 0])])[:, None].repeat(len(asked), 1)


def test_the_strongest_penalty_within_one_standard_error_is_taken():
    x, y = np.arange(2.0)[:, None], np.zeros(2)  # a row a fold
    folds = [(np.array([1]), np.array([0])), (np.array([0]), np.array([1]))]
    search = FoldSearch([Told([100.0, 10.0, 1.0])], folds).fit(x, y)
    np.testing.assert_allclose(search.scores_.mean(1), [-2.5, -1.0, -0.5])  # standard error of the best 0.5
    assert search.penalty_ == {"ridge": 10.0}


@pytest.mark.parametrize("seed", range(3))
def test_macro_f1_is_that_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    target, guess = rng.integers(0, 5, 30), rng.integers(1, 7, 30)
    assert macro_f1(target, guess) == pytest.approx(f1_score(target, guess, average="macro", zero_division=0.0))
    names = np.array(list("abcdefg"))
    assert macro_f1(names[target], names[guess]) == pytest.approx(macro_f1(target, guess))
    target, guess = rng.integers(0, 2, (30, 4)), rng.integers(0, 2, (30, 4))
    target[:, 0] = guess[:, 0] = 0
    assert macro_f1(target, guess) == pytest.approx(f1_score(target, guess, average="macro", zero_division=0.0))
