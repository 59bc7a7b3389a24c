"""Logistic regression on the leading principal components of many features."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

__all__ = ["PrincipalLogistic"]

_MOST = 256  # components: months of three sensors are thousands of features, most of which repeat each other


class PrincipalLogistic(LogisticRegression):
    """:class:`sklearn.linear_model.LogisticRegression` that is fitted to at most 256 principal components of its
    (standardised) features; ``coef_`` is of the features. With 256 features or fewer it is the same."""

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
        if X.shape[1] <= _MOST:
            return super().fit(X, y, sample_weight)
        rows = X - X.mean(0)
        if len(rows) < X.shape[1]:  # the smaller of the two Gram matrices
            _, left = np.linalg.eigh(rows @ rows.T)
            axes = rows.T @ left[:, -_MOST:]  # (D, 256)
            axes /= np.maximum(np.linalg.norm(axes, axis=0), 1e-12)
        else:
            axes = np.linalg.eigh(rows.T @ rows)[1][:, -_MOST:]
        super().fit(X @ axes, y, sample_weight)
        self.coef_: np.ndarray = self.coef_ @ axes.T
        self.n_features_in_ = X.shape[1]
        return self
