"""What fine-tuning needs to know of labels: weights and shares of classes, intervals of quantities, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import classification, regression

from .conformal import ConformalInterval

__all__ = ["LEVEL", "Task", "class_weights", "label_metrics", "log_class_shares", "require_labels", "saved_intervals"]

Task = Literal["multilabel", "multiclass", "regression"]
LEVEL = 0.9  # of an interval of a quantity


def require_labels(task: str, classes: Sequence[str], dense: bool, statistics: Mapping[str, Sequence[float]]) -> None:
    """Refuses labels that no head is for.

    Args:
        statistics: of the targets, by the name of the argument.

    Raises:
        ValueError: an unknown task, no class, maps of several classes or quantities a pixel, or another number of
            statistics than of targets.
    """
    if task not in ("multilabel", "multiclass", "regression"):
        raise ValueError(f"Finetuning: task is 'multilabel', 'multiclass' or 'regression', not {task!r}")
    if not classes:
        raise ValueError("Finetuning: no class or target named")
    for field, values in statistics.items():
        if len(values) not in (0, len(classes)):
            raise ValueError(f"Finetuning: {len(values)} {field} for {len(classes)} targets")
    if dense and (task == "multilabel" or (task == "regression" and len(classes) > 1)):
        raise ValueError(f"Finetuning: a map holds one class or one quantity a pixel, not {task} of {classes}")


def class_weights(given: str | Sequence[float], task: Task, classes: Sequence[str]) -> Tensor | None:
    """(K,) the weights of the classes; None for ``"none"``."""
    if isinstance(given, str) and given == "none":
        return None
    if isinstance(given, str) and given == "balanced":
        raise ValueError(
            "Finetuning: class_weights='balanced' needs the training labels; fine-tune with fusion.evaluation.finetune "
            "or `fusion finetune`, or give the numbers of fusion.evaluation.class_weights.balanced_weights"
        )
    if task == "regression":
        raise ValueError(f"Finetuning: class_weights {given} for a quantity, which has no classes; leave them out")
    numbers = isinstance(given, list | tuple) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in given
    )
    if not numbers or len(given) != len(classes) or not any(given):
        raise ValueError(
            f"Finetuning: class_weights are 'none', 'balanced' or {len(classes)} numbers of 0 or more, one of "
            f"{', '.join(classes)} each and not all of them 0; not {given!r}"
        )
    return torch.tensor([float(weight) for weight in given])


def log_class_shares(shares: Sequence[float], classes: Sequence[str]) -> Tensor:
    """(K,) logs of the shares of the classes; 0 of a class without a label, which learns never to be the answer."""
    numbers = torch.tensor([float(share) for share in shares])
    if len(numbers) != len(classes) or not (numbers.isfinite() & (numbers >= 0)).all() or not numbers.any():
        raise ValueError(
            f"Finetuning: class_shares are {len(classes)} numbers of 0 or more, one of {', '.join(classes)} each and "
            f"not all of them 0; not {shares!r}"
        )
    numbers = numbers / numbers.sum()
    return torch.where(numbers > 0, numbers, 1.0).log()


def saved_intervals(
    level: float, saved: Sequence[Mapping[str, Any]], task: Task, classes: Sequence[str]
) -> tuple[ConformalInterval, ...]:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"Finetuning: interval_level is between 0 and 1, e.g. 0.9, not {level!r}")
    if task != "regression" and (saved or level != LEVEL):
        raise ValueError(
            f"Finetuning: an interval (interval_level {level}) is of a quantity, {', '.join(classes)} are classes; "
            "leave it out. How certain classes are is told by their probabilities"
        )
    if len(saved) not in (0, len(classes)):
        raise ValueError(f"Finetuning: {len(saved)} intervals for {len(classes)} quantities")
    return tuple(ConformalInterval.from_dict(one) for one in saved)


def label_metrics(task: Task, outputs: int, ignore_index: int | None = None) -> torchmetrics.MetricCollection:
    """Of labels of tiles, or of pixels where there is an ``ignore_index``."""
    if task == "regression":
        return torchmetrics.MetricCollection(
            {"r2": regression.R2Score(), "rmse": regression.MeanSquaredError(squared=False)}
        )
    if ignore_index is not None:
        return torchmetrics.MetricCollection(
            {
                "miou": classification.MulticlassJaccardIndex(outputs),
                "f1_macro": classification.MulticlassF1Score(outputs, average="macro"),
                "accuracy": classification.MulticlassAccuracy(outputs, average="micro"),
            }
        )
    averages: tuple[Literal["weighted", "macro", "micro"], ...] = ("weighted", "macro", "micro")
    kind = classification.MultilabelF1Score if task == "multilabel" else classification.MulticlassF1Score
    return torchmetrics.MetricCollection({f"f1_{average}": kind(outputs, average=average) for average in averages})
