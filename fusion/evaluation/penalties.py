"""Linear models that choose their penalty, and how they weigh rare classes, by ground that they were not fitted to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .fold_search import Folds, FoldSearch
from .paths import DiscriminantPath, LogisticPath, RidgePath

__all__ = [
    "chosen_model", "chosen_setting", "folds_of", "held_out_error", "held_out_score", "linear_model",
    "told_of_folds",
]  # fmt: skip

_INVERSE_STRENGTHS: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)  # C of a logistic regression, strongest first
_SHRINKAGES: Sequence[float] = (0.9, 0.6, 0.3, 0.1, 0.01)  # of the discriminant analysis, strongest first
_RIDGES: Sequence[float] = tuple(np.logspace(8, -2, 21).tolist())  # strongest first
_SEARCHED = 5000  # rows that the strength is searched on; more do not change it, but take hours
_FOLDS = 5


def linear_model(
    task: str, labels: np.ndarray, seed: int = 0, groups: np.ndarray | None = None, *, coarse: bool = False
) -> Any:
    """The estimator of :func:`~fusion.evaluation.linear_probe`, to be fitted to all rows of ``labels``; it chooses its
    penalty itself.

    Of classes it is a logistic regression or a linear discriminant analysis with a shrunk covariance, whichever has the
    larger macro F1 on the folds: the first needs labels, the second makes do with few of them and many features. Each
    is tried with several logit adjustments (:mod:`fusion.evaluation.logit_adjustment`), which rare classes need.

    With ``groups`` a ridge regression takes the strongest penalty whose error is within one standard error of the
    smallest (Breiman et al. 1984, "Classification and Regression Trees", 3.4.3): parts of one place are more alike than
    places, so what is best on them is too weak elsewhere.

    Args:
        groups: (N,) block of ground of each row; a fold takes whole blocks. None: a ridge regression leaves out single
            rows, the others folds of single rows.
        coarse: a short search, of two or three strengths, where only its :func:`held_out_score` is asked for.
    """
    folds = None if task == "regression" and groups is None else folds_of(task, labels, seed, groups)
    if task == "regression":
        if folds is not None:
            return FoldSearch([RidgePath(_RIDGES)], folds)
        from sklearn.linear_model import RidgeCV

        return RidgeCV(alphas=_RIDGES[::-1], alpha_per_target=np.ndim(labels) > 1)
    some = slice(1, None, 2) if coarse else slice(None)
    logistic = LogisticPath(_INVERSE_STRENGTHS[some], several=task == "multilabel")
    if folds is None:
        return logistic.estimator({})
    if task == "multilabel":
        return FoldSearch([logistic], folds)
    discriminant = DiscriminantPath(_SHRINKAGES[some])
    return FoldSearch([discriminant] if coarse else [logistic, discriminant], folds)


def chosen_model(fitted: Any) -> Any:
    """The linear model itself, with ``coef_`` and ``intercept_``, of a fitted estimator of :func:`linear_model`."""
    return getattr(fitted, "model_", fitted)


def chosen_setting(fitted: Any) -> dict[str, Any]:
    """What a fitted estimator of :func:`linear_model` chose, by name: ``ridge``, or ``C`` or ``shrinkage`` and
    ``logit_adjustment``."""
    if hasattr(fitted, "alpha_"):
        found = np.unique(fitted.alpha_).tolist()
        return {"ridge": found[0] if len(found) == 1 else found}
    return dict(getattr(fitted, "setting_", {"C": 1.0}))  # too few labels to choose by


def held_out_score(fitted: Any) -> float:
    """What a fitted estimator of :func:`linear_model` reached on the folds, with the penalty that it chose: the more
    the better, comparable where labels, seed and groups are the same. NaN where labels were too few to choose by."""
    if isinstance(fitted, FoldSearch):
        return float(fitted.scores_[fitted.best_].mean())
    return float(np.mean(fitted.best_score_)) if hasattr(fitted, "best_score_") else float("nan")


def held_out_error(fitted: Any) -> float:
    """The standard error over folds of :func:`held_out_score`; 0 where single rows were left out or nothing chosen."""
    return fitted.error() if isinstance(fitted, FoldSearch) else 0.0


def folds_of(task: str, y: np.ndarray, seed: int, groups: np.ndarray | None = None) -> Folds | None:
    """Folds for choosing, of at most 5000 rows: of whole groups where these make two, else of single rows; None where
    labels are too few to choose by.

    The same labels, seed and groups give the same folds, whatever the features.
    """
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    rows = np.random.default_rng(seed).permutation(len(y))[:_SEARCHED]
    if groups is not None:
        together = np.asarray(groups)[rows]
        splits = min(_FOLDS, len(np.unique(together)))
        if task == "multiclass":  # more folds than the largest class has rows cannot be stratified
            splits = min(splits, int(np.unique(y[rows], return_counts=True)[1].max()))
        if splits >= 2:
            kind = StratifiedGroupKFold if task == "multiclass" else GroupKFold
            found = _taken(kind(splits), rows, y, together)
            if task != "regression":  # of a part with one class nothing is learned
                found = [(fit, held_out) for fit, held_out in found if _varies(y[fit])]
            if len(found) > 1:
                return found
    if task == "multiclass":
        splits = int(min(_FOLDS, np.median(np.unique(y[rows], return_counts=True)[1])))
        return _taken(StratifiedKFold(splits), rows, y) if splits >= 2 else None
    return _taken(KFold(_FOLDS), rows, y) if len(rows) >= 2 * _FOLDS else None


def told_of_folds(groups: np.ndarray | None) -> list[str]:
    """A note where single rows choose the penalty, since no blocks of ground are known."""
    if groups is not None and len(np.unique(groups)) > 1:
        return []
    return [
        "no blocks of ground are known: penalties are chosen by leaving out single tiles, too weak where neighbours "
        "are alike"
    ]


def _taken(splitter: Any, rows: np.ndarray, y: np.ndarray, together: np.ndarray | None = None) -> Folds:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")
        return [(rows[fit], rows[held_out]) for fit, held_out in splitter.split(rows, y[rows], together)]


def _varies(labels: np.ndarray) -> bool:
    return bool((labels != labels[0]).any())
