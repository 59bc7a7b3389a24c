"""Regularization paths: a linear model at every strength of its penalty, for little more than the price of one.

What the strengths share is computed once: the eigenvectors of a ridge regression, the principal components of a
logistic regression, which also starts from the stronger penalty's solution, the covariance of a discriminant analysis.
Logit adjustments of one classifier differ by its intercepts alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fusion.training.closed_form import discriminants

from .linear_classifiers import PrincipalLogistic, ShrunkDiscriminant, in_components
from .logit_adjustment import ADJUSTMENTS, adjusted_answers, log_shares

__all__ = ["DiscriminantPath", "LogisticPath", "Path", "RidgePath"]

_LOGISTIC: dict[str, Any] = {"max_iter": 500, "tol": 1e-3}


class Path(Protocol):
    """A linear model of standardised features."""

    @property
    def settings(self) -> Sequence[Mapping[str, float]]:
        """What there is to choose from, by name, the strongest penalty first: ``[{"ridge": 100.0}, ...]``."""

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        """For rows ``asked`` (M, F), of the model fitted to ``x`` (N, F) and ``y`` with each of the settings."""

    def estimator(self, setting: Mapping[str, float]) -> Any:
        """The model with one of the settings, with the interface of scikit-learn, to be fitted."""


@dataclass(frozen=True)
class RidgePath:
    """Ridge regression of one quantity or several."""

    strengths: Sequence[float]

    @property
    def settings(self) -> Sequence[Mapping[str, float]]:
        return [{"ridge": float(strength)} for strength in self.strengths]

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

    def estimator(self, setting: Mapping[str, float]) -> Any:
        from sklearn.linear_model import Ridge

        return Ridge(setting["ridge"])


@dataclass(frozen=True)
class LogisticPath:
    """Logistic regression of classes, or with ``several`` of each class against the rest."""

    strengths: Sequence[float]
    several: bool = False
    adjustments: Sequence[float] = ADJUSTMENTS

    @property
    def settings(self) -> Sequence[Mapping[str, float]]:
        return [{"C": c, "logit_adjustment": part} for c in self.strengths for part in self.adjustments]

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        from sklearn.linear_model import LogisticRegression

        x, asked = in_components(x, asked)
        shares = log_shares(y)
        model = LogisticRegression(warm_start=True, **_LOGISTIC)
        for strength in self.strengths:
            model.set_params(C=strength)
            logits = (_one_against_rest(model) if self.several else model).fit(x, y).decision_function(asked)
            yield from (adjusted_answers(logits, part * shares, y) for part in self.adjustments)

    def estimator(self, setting: Mapping[str, float]) -> Any:
        model = PrincipalLogistic(**(_LOGISTIC | dict(setting)))
        return _one_against_rest(model) if self.several else model


@dataclass(frozen=True)
class DiscriminantPath:
    """Linear discriminant analysis with a shrunk covariance."""

    strengths: Sequence[float]
    adjustments: Sequence[float] = ADJUSTMENTS

    @property
    def settings(self) -> Sequence[Mapping[str, float]]:
        return [{"shrinkage": s, "logit_adjustment": part} for s in self.strengths for part in self.adjustments]

    def predictions(self, x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> Iterator[np.ndarray]:
        classes, numbers = np.unique(y, return_inverse=True)
        shares = log_shares(numbers)
        for weight, bias in discriminants(x, numbers, len(classes), self.strengths):
            logits = asked @ weight.T + bias  # (M, K)
            yield from (adjusted_answers(logits, part * shares, y) for part in self.adjustments)

    def estimator(self, setting: Mapping[str, float]) -> Any:
        return ShrunkDiscriminant(**setting)


def _one_against_rest(model: Any) -> Any:
    from sklearn.multiclass import OneVsRestClassifier

    return OneVsRestClassifier(model)
