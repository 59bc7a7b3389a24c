"""Regularization paths: a linear model at every strength of its penalty, for little more than the price of one.

What the strengths share is computed once: the eigenvectors of a ridge regression, the principal components of a
logistic regression, which also starts from the stronger penalty's solution, the covariance of a discriminant analysis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fusion.training.closed_form import discriminants

from .linear_classifiers import PrincipalLogistic, ShrunkDiscriminant, in_components

__all__ = ["DiscriminantPath", "LogisticPath", "Path", "RidgePath"]

_LOGISTIC: dict[str, Any] = {"max_iter": 500, "tol": 1e-3}


class Path(Protocol):
    """A linear model of standardised features."""

    @property
    def penalty(self) -> str:
        """Its name, e.g. ``"C"``."""

    @property
    def strengths(self) -> Sequence[float]:
        """Its values, strongest first."""

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        """For rows ``asked`` (M, F), of the model fitted to ``x`` (N, F) and ``y`` at each of the strengths."""

    def estimator(self, strength: float) -> Any:
        """The model at one strength, with the interface of scikit-learn, to be fitted."""


@dataclass(frozen=True)
class RidgePath:
    """Ridge regression of one quantity or several."""

    strengths: Sequence[float]
    penalty: str = "ridge"

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        centre, level = x.mean(axis=0), y.mean(axis=0)
        x, asked, target = x - centre, asked - centre, (y - level).reshape(len(y), -1)  # (N, F), (M, F), (N, T)
        if x.shape[1] <= len(x):
            size, axes = np.linalg.eigh(x.T @ x)  # (F,), (F, F)
            seen, known = asked @ axes, axes.T @ (x.T @ target)  # (M, F), (F, T)
        else:
            size, axes = np.linalg.eigh(x @ x.T)  # (N,), (N, N)
            seen, known = (asked @ x.T) @ axes, axes.T @ target  # (M, N), (N, T)
        for strength in self.strengths:
            found = seen @ (known / (size.clip(min=0) + strength)[:, None])  # (M, T)
            yield found.reshape(len(asked), *y.shape[1:]) + level

    def estimator(self, strength: float) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(strength)


@dataclass(frozen=True)
class LogisticPath:
    """Logistic regression of classes, or with ``several`` of each class against the rest."""

    strengths: Sequence[float]
    several: bool = False
    penalty: str = "C"

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        x, asked = in_components(x, asked)
        model = LogisticRegression(warm_start=True, **_LOGISTIC)
        for strength in self.strengths:
            model.set_params(C=strength)
            yield (_one_against_rest(model) if self.several else model).fit(x, y).predict(asked)

    def estimator(self, strength: float) -> Any:
        model = PrincipalLogistic(C=strength, **_LOGISTIC)
        return _one_against_rest(model) if self.several else model


@dataclass(frozen=True)
class DiscriminantPath:
    """Linear discriminant analysis with a shrunk covariance."""

    strengths: Sequence[float]
    penalty: str = "shrinkage"

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        classes, numbers = np.unique(y, return_inverse=True)
        for weight, bias in discriminants(x, numbers, len(classes), self.strengths):
            yield classes[(asked @ weight.T + bias).argmax(axis=1)]

    def estimator(self, strength: float) -> Any:
        return ShrunkDiscriminant(strength)


def _one_against_rest(model: Any) -> Any:
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(model)
