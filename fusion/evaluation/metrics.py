"""How good predictions are: the numbers that the papers report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Spread", "confusion", "per_class", "score"]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one number over several seeds (sd is 0 for one)."""

    mean: float
    sd: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        numbers = np.asarray(values, dtype=float)
        return cls(float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0, len(numbers))

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.runs == 1 else f"{self.mean:.3f} ± {self.sd:.3f}"


def score(task: str, target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Scores of one set of predictions.

    Args:
        task: ``"multilabel"`` (both (N, K) of 0 and 1), ``"multiclass"`` (both (N,) class indices) or ``"regression"``
            (both (N,) or (N, T)).

    Returns:
        ``macro_f1`` (plain mean over classes), ``weighted_f1`` (by support), ``micro_f1``, and ``accuracy`` for
        multi-class; ``r2`` (mean over targets), ``rmse`` and ``mae`` in the unit of the target for regression. A
        class that is neither there nor predicted has no F1 and is left out of the macro mean.

    Raises:
        ValueError: shapes differ, predictions are not finite, or the targets leave nothing to be told apart (one
            class only, a constant target): no score of such a split says anything.
    """
    target, prediction = _aligned(task, target, prediction)
    if task == "regression":
        return _regression(target, prediction)
    from sklearn.metrics import accuracy_score, f1_score

    labels = _classes_seen(task, target, prediction)
    arguments = {"labels": labels, "zero_division": 0.0}
    scores = {
        f"{average}_f1": float(f1_score(target, prediction, average=average, **arguments))
        for average in ("macro", "weighted", "micro")
    }
    if task == "multiclass":
        scores["accuracy"] = float(accuracy_score(target, prediction))
    return scores


def per_class(
    task: str, target: np.ndarray, prediction: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, float]]:
    """F1, precision, recall and support of each class, or R2 and RMSE of each regression target.

    A class that is neither there nor predicted has NaN scores and support 0.
    """
    target, prediction = _aligned(task, target, prediction)
    if task == "regression":
        target, prediction = (a.reshape(len(a), -1) for a in (target, prediction))
        columns = zip(classes, target.T, prediction.T, strict=True)
        return {name: _regression(t, p) for name, t, p in columns}
    from sklearn.metrics import precision_recall_fscore_support

    numbers = precision_recall_fscore_support(
        target, prediction, labels=np.arange(len(classes)), zero_division=0.0, average=None
    )
    seen = set(_classes_seen(task, target, prediction))
    return {
        name: {
            "f1": float(f1) if k in seen else float("nan"),
            "precision": float(precision) if k in seen else float("nan"),
            "recall": float(recall) if k in seen else float("nan"),
            "support": float(support),
        }
        for k, (name, precision, recall, f1, support) in enumerate(zip(classes, *numbers, strict=True))
    }


def confusion(task: str, target: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray | None:
    """How many samples of which class were predicted as which.

    Returns:
        (K, K) int64, rows the reference and columns the prediction; of several classes a tile (K, 2, 2), of each class
        rows absent and present in the reference, columns absent and present in the prediction; None of quantities.
    """
    if task == "regression":
        return None
    from sklearn.metrics import confusion_matrix, multilabel_confusion_matrix

    target, prediction = _aligned(task, target, prediction)
    labels = np.arange(classes)
    if task == "multiclass":
        return np.asarray(confusion_matrix(target, prediction, labels=labels))
    return np.asarray(multilabel_confusion_matrix(target, prediction, labels=labels))


def _aligned(task: str, target: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    for what, given in (("targets", target), ("predictions", prediction)):
        if np.ma.is_masked(given):
            raise ValueError(f"score: {np.ma.getmaskarray(given).sum()} {what} are masked; score what is known alone")
    target, prediction = np.asarray(np.ma.getdata(target)), np.asarray(np.ma.getdata(prediction))
    if task not in ("multilabel", "multiclass", "regression"):
        raise ValueError(f"score: task is 'multilabel', 'multiclass' or 'regression', not {task!r}")
    if task == "regression":
        target = target.reshape(len(target), -1)
        prediction = prediction.reshape(len(prediction), -1)
    if target.shape != prediction.shape or not len(target):
        raise ValueError(
            f"score: targets {target.shape} and predictions {prediction.shape} must match and not be empty"
        )
    if not np.isfinite(prediction).all():
        raise ValueError(f"score: {(~np.isfinite(prediction)).sum()} of {prediction.size} predictions are not finite")
    unknown = ~np.isfinite(target) if task == "regression" else ~(target >= 0)
    if unknown.any():
        raise ValueError(
            f"score: {unknown.sum()} of {target.size} targets are no label, e.g. {target[unknown][0]}; leave them out"
        )
    if task != "regression":
        target, prediction = target.astype(int), prediction.astype(int)
    if task == "multiclass" and len(np.unique(target)) < 2:
        raise ValueError(
            f"score: all {len(target)} tiles of the test split are of class {target[0]}, so no F1 says anything; "
            "choose a split with several classes (by area or chip, stratified)"
        )
    if task == "multilabel" and not ((target.min(0) == 0) & (target.max(0) == 1)).any():
        raise ValueError(
            f"score: no class is present in some and absent in others of the {len(target)} test tiles, so no F1 says "
            "anything; choose a larger or another test split"
        )
    return target, prediction


def _classes_seen(task: str, target: np.ndarray, prediction: np.ndarray) -> list[int]:
    if task == "multilabel":
        return np.flatnonzero(target.any(0) | prediction.any(0)).tolist()
    return np.unique(np.concatenate([target, prediction])).tolist()


def _regression(target: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    if len(target) < 2 or np.any(np.ptp(target, axis=0) == 0):
        raise ValueError(
            f"score: a target is constant over all {len(target)} test tiles, so R2 is undefined; choose a larger or "
            "another test split"
        )
    return {
        "r2": float(r2_score(target, prediction)),
        "rmse": float(root_mean_squared_error(target, prediction)),
        "mae": float(mean_absolute_error(target, prediction)),
    }
