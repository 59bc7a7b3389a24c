"""Linear classifiers for features that are many and alike, and labels that are few."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.extmath import randomized_svd

from fusion.training.closed_form import SHRINKAGE, discriminant

from .logit_adjustment import log_shares

__all__ = ["PrincipalLogistic", "ShrunkDiscriminant", "in_components"]

_MOST = 256  # components: months of three sensors are thousands of features, most of which repeat each other


def in_components(x: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Rows ``x`` (N, D), and others of the same features, in the at most 256 principal components of ``x``."""
    axes = _axes(x)
    return [rows if axes is None else rows @ axes for rows in (x, *others)]


def _axes(x: np.ndarray) -> np.ndarray | None:
    """(D, 256) of more than 256 features."""
    if x.shape[1] <= _MOST:
        return None
    return np.asarray(randomized_svd(x - x.mean(0), min(_MOST, len(x)), n_iter=4, random_state=0)[2].T)


class PrincipalLogistic(LogisticRegression):
    """:class:`sklearn.linear_model.LogisticRegression` that is fitted to at most 256 principal components of its
    (standardised) features; ``coef_`` is of the features. With 256 features or fewer it is the same.

    Args:
        C, max_iter, tol: scikit-learn's.
        logit_adjustment: part of the log share of a class that its intercept is lowered by, see
            :mod:`fusion.evaluation.logit_adjustment`.
    """

    def __init__(
        self, C: float = 1.0, *, max_iter: int = 100, tol: float = 1e-4, logit_adjustment: float = 0.0
    ) -> None:
        super().__init__(C=C, max_iter=max_iter, tol=tol)
        self.logit_adjustment = logit_adjustment

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
        axes = _axes(X)
        super().fit(X if axes is None else X @ axes, y, sample_weight)
        if axes is not None:
            self.coef_: np.ndarray = self.coef_ @ axes.T
            self.n_features_in_ = X.shape[1]
        shares = log_shares(y)
        taken = np.diff(shares) if len(shares) == 2 else shares  # two classes have one logit, the log odds
        self.intercept_: np.ndarray = self.intercept_ - self.logit_adjustment * taken
        return self


class ShrunkDiscriminant(ClassifierMixin, BaseEstimator):
    """Linear discriminant analysis with a shrunk covariance, see :func:`fusion.training.closed_form.discriminant`, for
    features that are standardised. It solves a system of as many equations as there are features or rows, whichever are
    fewer; scikit-learn's takes a minute for thousands of features.

    ``coef_`` and ``intercept_`` are those of a linear classifier in scikit-learn: of two classes the second's log odds.

    Args:
        shrinkage: share of the identity in the covariance, in (0, 1]: near 1 features count for themselves alone.
        logit_adjustment: part of the log share of a class that its intercept is lowered by, see
            :mod:`fusion.evaluation.logit_adjustment`.
    """

    def __init__(self, shrinkage: float = SHRINKAGE, logit_adjustment: float = 0.0) -> None:
        self.shrinkage, self.logit_adjustment = shrinkage, logit_adjustment

    def fit(self, X: np.ndarray, y: np.ndarray) -> ShrunkDiscriminant:
        self.classes_, numbers = np.unique(y, return_inverse=True)
        weight, bias = discriminant(X, numbers, len(self.classes_), self.shrinkage)  # (K, D), (K,)
        bias = bias - self.logit_adjustment * log_shares(numbers)
        if len(self.classes_) == 2:
            weight, bias = np.diff(weight, axis=0), np.diff(bias)
        self.coef_, self.intercept_ = weight, bias
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Log posteriors (N, K) but for a constant of each row; log odds (N,) of two classes."""
        scores = X @ self.coef_.T + self.intercept_
        return np.asarray(scores.ravel() if len(self.classes_) == 2 else scores)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Posteriors (N, K)."""
        scores = self.decision_function(X)
        logits = np.stack([np.zeros_like(scores), scores], axis=1) if scores.ndim == 1 else scores
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def predict(self, X: np.ndarray) -> np.ndarray:
        scores = self.decision_function(X)
        return np.asarray(self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)])
