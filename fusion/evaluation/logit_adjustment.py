"""Answers that count classes alike, as macro F1 does, however often each occurs among the labels.

A classifier that answers with the likeliest class hardly ever answers with a rare one. Logit adjustment (Menon et al.
2021, arXiv 2007.07314) takes a part of the log of its share of the labels from the logit of every class: 0 leaves the
likeliest class, 1 answers as if all classes were equally frequent. Which part macro F1 wants depends on the data and on
how sure the classifier is, so it is chosen on ground held out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["ADJUSTMENTS", "Adjusted", "adjusted_answers", "log_shares"]

ADJUSTMENTS: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST = 1e-6  # probability of a class that no tree of a forest votes for


def log_shares(labels: np.ndarray) -> np.ndarray:
    """What is taken from logits: (K,) log of the share of each class that occurs, in their order. Of (N, K) labels of 0
    and 1 the log odds of each column; one that never varies keeps its logit.
    """
    if labels.ndim == 2:
        yes = labels.sum(axis=0)
        varies = (yes > 0) & (yes < len(labels))
        return np.where(varies, np.log(np.where(varies, yes, 1) / np.where(varies, len(labels) - yes, 1)), 0.0)
    return np.log(np.unique(labels, return_counts=True)[1] / len(labels))


def adjusted_answers(logits: np.ndarray, taken: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Classes of ``labels`` by logits (N, K), or log odds (N,) of two classes, less what is taken (:func:`log_shares`);
    (N, K) of 0 and 1 where ``labels`` are."""
    if labels.ndim == 2:
        return np.asarray(logits - taken > 0).astype(int)
    logits = logits - (taken[1] - taken[0] if logits.ndim == 1 else taken)
    return np.unique(labels)[(logits > 0).astype(int) if logits.ndim == 1 else logits.argmax(axis=1)]


class Adjusted:
    """A fitted classifier of exclusive classes that gives probabilities, and the labels that it was fitted to."""

    def __init__(self, fitted: Any, labels: np.ndarray, adjustment: float = 0.0) -> None:
        self.fitted, self.labels, self.adjustment = fitted, labels, adjustment

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.answers(x, [self.adjustment])[0]

    def answers(self, x: np.ndarray, adjustments: Sequence[float] = ADJUSTMENTS) -> list[np.ndarray]:
        """(N,) classes for each of the adjustments."""
        logits = np.log(np.maximum(self.fitted.predict_proba(x), _LEAST))  # (N, K)
        shares = log_shares(self.labels)
        return [adjusted_answers(logits, part * shares, self.labels) for part in adjustments]
