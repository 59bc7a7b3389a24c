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
    for setting, guess in zip(path.settings, path.predictions(x[:40], y[:40], x[40:]), strict=True):
        other = Ridge(setting["ridge"]).fit(x[:40], y[:40])
        np.testing.assert_allclose(guess, other.predict(x[40:]), rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(path.estimator(setting).fit(x[:40], y[:40]).coef_, other.coef_)


def test_columns_that_repeat_each_other_or_never_vary_harm_no_ridge_path():
    x, y = data()
    x = np.column_stack([x, x, np.ones(len(x))])
    for guess in RidgePath([1.0, 1e-2]).predictions(x[:40], y[:40], x[40:]):
        assert np.isfinite(guess).all()
        assert np.corrcoef(guess, y[40:])[0, 1] > 0.9


def test_a_logistic_path_is_a_logistic_regression_at_every_strength():
    x, y = classes()
    path = LogisticPath([1e-3, 0.1, 10.0], adjustments=[0.0])
    for setting, guess in zip(path.settings, path.predictions(x[:60], y[:60], x[60:]), strict=True):
        other = LogisticRegression(C=setting["C"], max_iter=2000).fit(x[:60], y[:60]).predict(x[60:])
        assert (guess == other).mean() > 0.95


@pytest.mark.parametrize("path", [LogisticPath([1e-2, 1.0]), DiscriminantPath([0.9, 0.1])], ids=["logistic", "LDA"])
@pytest.mark.parametrize("among", ["abc", "ab"])
def test_adjusted_answers_of_a_path_are_those_of_its_estimators(path, among):
    x, y = classes(rows=300)
    few = (y != "c") | (np.arange(300) % 10 == 0) if among == "abc" else y != "c"
    x, y = x[few], y[few]
    for setting, guess in zip(path.settings, path.predictions(x[::2], y[::2], x[1::2]), strict=True):
        other = path.estimator(setting).fit(x[::2], y[::2])
        assert (guess == other.predict(x[1::2])).mean() > 0.98  # a logistic regression that started elsewhere
        np.testing.assert_array_equal(other.classes_[other.predict_proba(x).argmax(1)], other.predict(x))


def test_a_rare_class_is_found_the_more_often_the_more_of_its_share_is_taken_from_its_logit():
    x, y = classes(rows=600)
    few = (y != "c") | (np.arange(600) % 15 == 0)
    x, y = x[few] * 0.3, y[few]
    for path in (LogisticPath([1e-3]), LogisticPath([0.1]), DiscriminantPath([0.9])):
        found = [(guess == "c").sum() for guess in path.predictions(x, y, x)]
        assert found == sorted(found)
        assert found[0] < (y == "c").sum() < 1.5 * found[-1]


def test_several_classes_a_row_are_adjusted_one_by_one():
    x, y = data(rows=200, targets=2)
    y = (y > y.mean(0) + np.array([2.0, 0.0])).astype(int)  # the first is rare
    y = np.column_stack([y, np.zeros(200, dtype=int)])  # the third is never there
    path = LogisticPath([1e-2], several=True)
    plain, *_, full = path.predictions(x, y, x)
    assert plain[:, 0].sum() < y[:, 0].sum() < full[:, 0].sum()
    assert (plain[:, 1] == full[:, 1]).mean() > 0.9  # half of the rows have the second
    assert not full[:, 2].any()
    fitted = path.estimator({"C": 1e-2, "logit_adjustment": 1.0}).fit(x, y)
    assert (fitted.predict(x) == full).mean() > 0.98


def test_a_logistic_path_of_several_classes_a_row_gives_each():
    x, y = data(targets=3)
    y = (y > y.mean(0)).astype(int)
    for guess in LogisticPath([0.1, 10.0], several=True, adjustments=[0.0]).predictions(x[:40], y[:40], x[40:]):
        assert guess.shape == (20, 3)
        assert (guess == y[40:]).mean() > 0.8


@pytest.mark.parametrize("features", [8, 200], ids=["tall", "wide"])
def test_a_discriminant_path_is_a_discriminant_at_every_shrinkage(features):
    for x, y in (classes(features=features), (classes(features=features)[0], classes()[1] == "a")):
        path = DiscriminantPath([0.9, 0.1])
        for setting, guess in zip(path.settings, path.predictions(x[:60], y[:60], x[60:]), strict=True):
            np.testing.assert_array_equal(guess, ShrunkDiscriminant(**setting).fit(x[:60], y[:60]).predict(x[60:]))


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
    search = FoldSearch([LogisticPath([1e-6, 1.0], adjustments=[0.0]), DiscriminantPath([1e-2])], folds).fit(x, y)
    assert search.scores_.shape == (7, 1)
    assert search.best_ == search.scores_.mean(1).argmax() > 0  # the strongest penalty has learned nothing
    assert set(search.setting_) == {"C" if search.best_ == 1 else "shrinkage", "logit_adjustment"}
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
    assert search.setting_ == {"ridge": 10.0}


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


def test_a_class_that_some_folds_lack_is_scored_by_the_rows_of_all():
    """Fold by fold an answer "c" in a fold without it costs a third; together it costs little."""
    x, y = classes(rows=300)
    order = np.argsort(y == "c", kind="stable")  # the last fold has all of "c" but a few
    folds = [(np.setdiff1d(np.arange(300), part), part) for part in np.array_split(order, 3)]
    path = LogisticPath([1.0])
    search = FoldSearch([path], folds).fit(x, y)
    rows = np.concatenate([held_out for _, held_out in folds])
    guesses = [list(path.predictions(x[fit], y[fit], x[held_out])) for fit, held_out in folds]
    wanted = [macro_f1(y[rows], np.concatenate(own)) for own in zip(*guesses, strict=True)]
    np.testing.assert_allclose(search.scores_[:, 0], wanted)
    assert search.error() == 0.0
