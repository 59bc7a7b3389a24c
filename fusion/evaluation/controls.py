"""The strongest control: of several simple methods on raw values the one that held-out ground prefers.

A network that is compared with one weak method alone looks better than it is: on single pixels gradient boosting on
every date is far stronger than a forest on means of seasons, on biomass the other way round.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .logit_adjustment import ADJUSTMENTS, Adjusted
from .metrics import score
from .penalties import folds_of, linear_model
from .regressors import prepared, random_forest

__all__ = ["Described", "Strongest", "strongest"]

_CHOSEN_ON = 1500  # rows that the method is chosen on
_LEARNED = 10_000  # rows that gradient boosting learns from
_TREES = (100, 300)  # of a forest: to choose, to keep
_ROUNDS = (60, 150)  # of gradient boosting
_MAIN = {"regression": "r2", "multiclass": "macro_f1", "multilabel": "macro_f1"}


@dataclass(frozen=True)
class Described:
    """Raw values of N tiles or pixels.

    Attributes:
        x: (N, F), NaN where nothing was observed.
        filled: (N, F) the same with gaps between dates interpolated, for methods that cannot leave them out; None: x.
    """

    x: np.ndarray
    filled: np.ndarray | None = None

    def of(self, method: str) -> np.ndarray:
        """(N, F) float64 of what a method is given."""
        return np.asarray(self.x if self.filled is None or method == _BOOSTING else self.filled, dtype=np.float64)

    def rows(self, rows: np.ndarray) -> Described:
        return Described(self.x[rows], None if self.filled is None else self.filled[rows])


@dataclass(frozen=True)
class Strongest:
    """The method that won, fitted to all rows.

    Attributes:
        name: e.g. ``"HistGradientBoosting on 18 dates"``.
        values: key of the values that it is given.
        held_out: main score (R2 or macro F1) of every method on the folds that chose, NaN where there was no choice.
    """

    name: str
    values: str
    method: str
    fitted: Any
    held_out: dict[str, float]

    def predict(self, described: Mapping[str, Described]) -> np.ndarray:
        return np.asarray(self.fitted.predict(described[self.values].of(self.method)))


_BOOSTING, _FOREST = "HistGradientBoosting", "random forest"


def strongest(
    described: Mapping[str, Described],
    task: str,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Strongest:
    """Tries a linear model (:func:`fusion.evaluation.penalties.linear_model`), a random forest and
    HistGradientBoosting on each kind of raw values, and fits the one that predicts held-out blocks best to all rows.

    The choice is made on at most 1500 rows, gradient boosting learns from at most 10,000. Of exclusive classes
    each has the logit adjustment (:mod:`fusion.evaluation.logit_adjustment`) that is best on the same blocks.

    Args:
        described: raw values of the same rows, by what they are in words, e.g. ``"12 dates"``.
        labels: (N,) classes, (N, K) several of them, or (N, T) quantities.
        groups: (N,) blocks of ground, which folds take whole.
    """
    rng = np.random.default_rng(seed)
    few = np.sort(rng.permutation(len(labels))[:_CHOSEN_ON])
    folds = folds_of(task, labels[few], seed, None if groups is None else np.asarray(groups)[few])
    methods = ("ridge regression" if task == "regression" else "linear classifier", _FOREST, _BOOSTING)
    tried = {f"{method} on {values}": (method, values) for values in described for method in methods}
    found, parts = dict.fromkeys(tried, float("nan")), dict.fromkeys(tried, 0.0)
    if folds is not None:
        folds = folds[:3]  # of five: what they leave out is large enough to choose by
        for name, (method, values) in tried.items():
            own = None if groups is None else np.asarray(groups)[few]
            x = described[values].rows(few).of(method)
            found[name], parts[name] = _held_out(x, method, task, labels[few], own, folds, seed)
    known = {name: value for name, value in found.items() if not np.isnan(value)}
    name = max(known, key=lambda one: known[one]) if known else f"{_FOREST} on {next(iter(described))}"
    method, values = tried[name]
    fitted = _fit(method, described[values].of(method), task, labels, groups, seed, parts[name], final=True)
    return Strongest(name, values, method, fitted, found)


def _held_out(
    x: np.ndarray,
    method: str,
    task: str,
    labels: np.ndarray,
    groups: np.ndarray | None,
    folds: list[tuple[np.ndarray, np.ndarray]],
    seed: int,
) -> tuple[float, float]:
    """The best main score of the rows of all folds together, and the logit adjustment that it has."""
    target, guesses = [], []
    for fit, held_out in folds:
        own = None if groups is None else groups[fit]
        fitted = _fit(method, x[fit], task, labels[fit], own, seed)
        adjustable = isinstance(fitted, Adjusted)
        guesses.append(fitted.answers(x[held_out]) if adjustable else [fitted.predict(x[held_out])])
        target.append(labels[held_out])
    wanted = np.concatenate(target)
    scores = [_score(task, wanted, np.concatenate(guess)) for guess in zip(*guesses, strict=True)]
    best = int(np.argmax(scores))
    return scores[best], ADJUSTMENTS[best]


def _score(task: str, wanted: np.ndarray, given: np.ndarray) -> float:
    if task == "regression":
        wanted, given = wanted.reshape(len(wanted), -1), given.reshape(len(given), -1)
    try:
        return score(task, wanted, given)[_MAIN[task]]
    except ValueError:  # all of one class: nothing to choose by
        return float("nan")


def _fit(
    method: str,
    x: np.ndarray,
    task: str,
    labels: np.ndarray,
    groups: np.ndarray | None,
    seed: int,
    adjustment: float = 0.0,
    final: bool = False,
) -> Any:
    y = labels.ravel() if labels.ndim == 2 and labels.shape[1] == 1 and task == "regression" else labels
    y = y if task == "regression" else y.astype(int)
    if method == _BOOSTING:
        x = np.where(np.isnan(x).all(axis=0), 0.0, x)  # a column without any value cannot be binned; nothing splits a 0
        pipeline = _boosting(task, y, seed, _ROUNDS[final])
        if len(y) > _LEARNED:
            rows = np.random.default_rng(seed).permutation(len(y))[:_LEARNED]
            x, y = x[rows], y[rows]
    elif method == _FOREST:
        pipeline = prepared(random_forest(task, _TREES[final], 1 if len(y) < 5000 else 2, seed), standardise=False)
    else:
        pipeline = prepared(linear_model(task, labels, seed, groups, coarse=not final))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with few labels, columns without a value: a control does what it can
        fitted = pipeline.fit(x, y)
    return Adjusted(fitted, y, adjustment) if task == "multiclass" and method in (_BOOSTING, _FOREST) else fitted


def _boosting(task: str, y: np.ndarray, seed: int, rounds: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.multioutput import MultiOutputRegressor

    least = min(20, max(1, len(y) // 10))
    if task == "regression":
        one = HistGradientBoostingRegressor(
            max_iter=rounds, learning_rate=0.1, min_samples_leaf=least, random_state=seed, early_stopping=False
        )
        return one if y.ndim == 1 else MultiOutputRegressor(one)
    kinds = HistGradientBoostingClassifier(
        max_iter=rounds, learning_rate=0.1, min_samples_leaf=least, random_state=seed, early_stopping=False
    )
    return kinds if task == "multiclass" else _EachClass(kinds)


class _EachClass:
    """A classifier for each of several classes that a row may have; of a class that never varies, what it always is."""

    def __init__(self, one: Any) -> None:
        self.one = one

    def fit(self, x: np.ndarray, y: np.ndarray) -> _EachClass:
        from sklearn.base import clone

        self.each = [int(k[0]) if (k == k[0]).all() else clone(self.one).fit(x, k) for k in y.T]
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        found = [np.full(len(x), one) if isinstance(one, int) else one.predict(x) for one in self.each]
        return np.stack(found, axis=1)
