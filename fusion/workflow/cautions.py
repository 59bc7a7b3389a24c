"""What a reader of scores must not miss: pretraining that did not help, and classes of which little is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .scores import MAIN

__all__ = ["few_labels", "lost_pretraining", "shown_metric"]

_FEW = {"tiles": 30, "pixels": 500}
METRICS = {
    "miou": "mean IoU",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "micro_f1": "micro F1",
    "accuracy": "accuracy",
    "r2": "R²",
    "rmse": "root mean square error",
    "mae": "mean absolute error",
    "interval_coverage": "share of the truth that the predicted interval held",
}


def shown_metric(row: Any) -> str | None:
    """The metric that stands for all of a row of ``metrics.json``; None where it is no row of scores."""
    return next((name for name in MAIN if isinstance(row.get(name), int | float)), None) if _is(row) else None


def lost_pretraining(metrics: Mapping[str, Any]) -> list[str]:
    """A sentence for each comparison in the scores of a run in which the pretrained encoder is not the better one.

    Args:
        metrics: of ``metrics.json``: groups of rows, where ``pretrained`` stands beside ``random`` and ``raw`` (of a
            probe), ``scratch`` (of fine-tuning), ``raw_forest`` or ``raw_best`` (of both).
    """
    return [text for group in metrics.values() if _is(group) for text in _of_group(group)]


def few_labels(confusion: Mapping[str, Any] | None, counted: str = "tiles") -> str:
    """Names the classes with few test labels; empty if there are none.

    Args:
        confusion: of a row: ``classes``, and ``counts`` (K, K) or (K, 2, 2) with the reference in rows, or ``draws``
            of such.
        counted: what they are counts of, ``tiles`` or ``pixels``.
    """
    found = (confusion or {}).get("counts", next(iter((confusion or {}).get("draws", ())), None))
    if confusion is None or found is None:
        return ""
    counts = np.asarray(found)
    there = counts[:, 1].sum(axis=1) if counts.ndim == 3 else counts.sum(axis=1)
    least = _FEW[counted]
    few = [f"{name} ({n})" for name, n in zip(confusion["classes"], there, strict=True) if n < least]
    if not few:
        return ""
    return (
        f"Fewer than {least} test {counted} are labelled as: {', '.join(few)}. What is said of "
        f"{'it' if len(few) == 1 else 'them'} alone is uncertain."
    )


def _of_group(group: Mapping[str, Any]) -> Iterator[str]:
    own = group.get("pretrained") or {}
    metric = shown_metric(own)
    if metric is None:
        return
    rivals = {
        "random": "the same network with random weights",
        "raw": "plain band statistics without any network",
        "raw_forest": "a random forest on raw values without any network",
        "raw_best": "the strongest of several simple methods on raw values without any network",
        "scratch": "the same network trained on the labels alone, from random weights",
    }
    for name, told in rivals.items():
        row = group.get(name) or {}
        if not _is(row) or not isinstance(row.get(metric), int | float) or own[metric] > row[metric]:
            continue
        told = f"{told}, {row['control']}" if "control" in row else told
        lost = own[metric] < row[metric]
        probed = name != "scratch" and "random" in group
        how = "with a simple classifier on the features of" if probed else "fine-tuned from"
        yield (
            f"Pretraining did not help here: {how} the pretrained encoder, {METRICS[metric]} is {own[metric]:.3f} on "
            f"the test tiles, {'less than' if lost else 'no more than'} the {row[metric]:.3f} of {told}."
            f"{_overlap(own, row, metric) if lost else ''}"
        )


def _overlap(own: Mapping[str, Any], other: Mapping[str, Any], metric: str) -> str:
    ends = [row.get("intervals", {}).get(metric) for row in (own, other)]
    if None in ends or ends[0][1] < ends[1][0]:
        return ""
    return " Their intervals overlap, so that the difference may be chance."


def _is(value: Any) -> bool:
    return isinstance(value, Mapping)
