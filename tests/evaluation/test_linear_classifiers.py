"""Classifiers for many features: on principal components, and with a shrunk covariance."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from fusion.evaluation import Features
from fusion.evaluation.estimators import fit_estimator
from fusion.evaluation.linear_classifiers import PrincipalLogistic, ShrunkDiscriminant
from fusion.evaluation.penalties import chosen_model, chosen_setting, held_out_score, linear_model
from fusion.evaluation.regressors import prepared


def two_classes(features, rows=400):
    """Classes that differ along one direction of large variance."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, rows)
    x = rng.normal(size=(rows, features)) * 0.3
    return x + np.outer(2 * y - 1, rng.normal(size=features)), y


def test_few_features_are_a_plain_logistic_regression():
    x, y = two_classes(20)
    np.testing.assert_array_equal(PrincipalLogistic().fit(x, y).coef_, LogisticRegression().fit(x, y).coef_)


def test_coefficients_of_many_features_are_of_the_features():
    for rows in (400, 700):  # fewer and more rows than features
        x, y = two_classes(600, rows)
        fitted = PrincipalLogistic(C=0.01).fit(x[::2], y[::2])
        assert fitted.coef_.shape == (1, 600)
        np.testing.assert_allclose(fitted.decision_function(x), x @ fitted.coef_[0] + fitted.intercept_[0])
        assert (fitted.predict(x[1::2]) == y[1::2]).mean() > 0.99


def test_a_discriminant_is_that_of_scikit_learn():
    """With the share of the identity s: scikit-learn shrinks the covariance of standardised features alike."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    rng = np.random.default_rng(1)
    y = np.array(["a", "b", "c"])[rng.integers(0, 3, 200)]
    x = rng.normal(size=(200, 6)) + np.eye(3)[np.unique(y, return_inverse=True)[1]] @ rng.normal(size=(3, 6))
    for labels in (y, np.where(y == "a", "a", "b")):
        rest = np.concatenate([x[labels == k] - x[labels == k].mean(0) for k in np.unique(labels)])
        spread = rest.std(0)  # scikit-learn standardises within classes before it shrinks
        ours = ShrunkDiscriminant(0.2).fit(x / spread, labels)
        other = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x / spread, labels)
        assert list(ours.classes_) == list(other.classes_)
        got, want = ours.decision_function(x / spread), other.decision_function(x / spread)
        if got.ndim == 2:
            got, want = got - got[:, :1], want - want[:, :1]
        np.testing.assert_allclose(got, want, atol=0.02)
        assert (ours.predict(x / spread) == other.predict(x / spread)).mean() > 0.99


def test_the_probe_takes_the_discriminant_where_it_is_better_and_puts_it_into_tensors():
    """Few rows of many features that repeat each other's noise: only the covariance tells the classes apart."""
    rng = np.random.default_rng(0)
    rows, features = 90, 400
    y = rng.integers(0, 3, rows)
    noise = rng.normal(size=(rows, 20)) @ rng.normal(size=(20, features)) * 3
    x = noise + 0.5 * rng.normal(size=(rows, features)) + 0.6 * np.eye(3)[y] @ rng.normal(size=(3, features))
    groups = np.arange(rows) // 6
    pipeline = prepared(linear_model("multiclass", y, 0, groups)).fit(x, y)
    assert isinstance(chosen_model(pipeline[-1]), ShrunkDiscriminant)
    assert list(chosen_setting(pipeline[-1])) == ["shrinkage", "logit_adjustment"]
    assert 0.8 < held_out_score(pipeline[-1]) <= 1
    names = tuple(f"tile-{i}" for i in range(rows))
    given = Features(x.astype(np.float32), y, names, "multiclass", ("a", "b", "c"), blocks=groups)
    fitted = fit_estimator("linear", given)
    assert list(fitted.setting) == ["shrinkage", "logit_adjustment"]
    found = fitted.estimator(torch.from_numpy(given.x)).argmax(1).numpy()
    np.testing.assert_array_equal(found, pipeline.predict(given.x.astype(float)))
