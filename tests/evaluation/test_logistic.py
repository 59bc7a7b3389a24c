"""Many features are brought to their principal components, few are left alone."""

import numpy as np
from sklearn.linear_model import LogisticRegression

from fusion.evaluation.logistic import PrincipalLogistic


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
