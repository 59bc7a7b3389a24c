"""Scores of predicted maps: counts over all labelled pixels, tile after tile, so that no map has to be kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fusion.data import TileDataset
from fusion.embed.blend import device_of
from fusion.training.conformal import ConformalInterval
from fusion.training.loading import evaluation_loader, require_fit, unseen

from .coverage import Coverage
from .probes import ProbeResult

__all__ = ["confusion_scores", "predicted_maps", "score_maps", "score_predictions"]

_KEPT = 20_000  # pixels, evenly spaced, that are kept for pictures


def predicted_maps(
    module: nn.Module, dataset: TileDataset, *, batch_size: int = 8, workers: int = 0, blank: list[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each batch the predicted maps and the labels, both (B, H, W): class indices, or a quantity in its unit.

    Args:
        blank: is extended by the names of tiles without any observation.

    Raises:
        ValueError: the data do not fit the model.
    """
    require_fit(cast(nn.Module, module.model), dataset)
    device, training = device_of(module), module.training
    module.eval()
    try:
        with torch.inference_mode():
            for batch in evaluation_loader(dataset, batch_size, workers=workers):
                if blank is not None:
                    blank += unseen(batch)
                out = module(batch.to(device)).float()  # (B, K, H, W)
                maps = out.argmax(1) if module.task == "multiclass" else out[:, 0]
                yield maps.cpu().numpy(), cast(torch.Tensor, batch.labels).numpy()
    finally:
        module.train(training)


def score_maps(module: nn.Module, dataset: TileDataset, labelled: int, **how: Any) -> ProbeResult:
    """Scores of a fine-tuned module on the labelled pixels of a data set.

    Args:
        labelled: tiles it was trained with.
        how: batch size and workers of :func:`predicted_maps`.

    Returns:
        ``miou``, ``macro_f1``, ``weighted_f1`` and ``accuracy`` (:func:`confusion_scores`), or ``r2``, ``rmse`` and
        ``mae``, with ``interval_coverage`` and ``interval_width`` of a model that has an interval. ``target`` and
        ``prediction`` are evenly spaced pixels, for pictures; ``confusion`` and the ``sums`` of each tile are of all
        labelled pixels.

    Raises:
        ValueError: no pixel is labelled, or their class or value is always the same, so that no score means anything.
    """
    intervals = getattr(module, "intervals", ())
    return score_predictions(predicted_maps(module, dataset, **how), dataset, labelled, intervals=intervals)


def score_predictions(
    maps_and_labels: Iterable[tuple[np.ndarray, np.ndarray]],
    dataset: TileDataset,
    labelled: int,
    *,
    method: str = "finetune",
    intervals: Sequence[ConformalInterval] = (),
) -> ProbeResult:
    """The same of predictions of any kind: pairs (B, H, W) in the order of the tiles, of a quantity with the intervals
    that are claimed for them.

    Raises:
        ValueError: as :func:`score_maps`.
    """
    tally: _Counts | _Moments
    tally = _Moments() if dataset.task == "regression" else _Counts(len(dataset.classes))
    pixels = int(np.prod(dataset.label_shape or (1,))) * len(dataset)
    sample, first = max(1, pixels // _KEPT), 0
    targets, predictions, covered = [], [], []
    for maps, labels in maps_and_labels:
        known = np.isfinite(labels) if dataset.task == "regression" else labels != dataset.ignore_index
        tally.add(labels, maps, known)
        if intervals:
            covered.append(Coverage.of(intervals, maps[:, None], labels[:, None]))
        every = np.zeros(labels.size, dtype=bool)
        every[-first % sample :: sample] = True
        first += labels.size
        kept = known & every.reshape(known.shape)
        targets.append(labels[kept])
        predictions.append(maps[kept])
    scores, classes = tally.scores(dataset.classes)
    kept = np.concatenate(targets), np.concatenate(predictions)
    confusion, sums = tally.counts, np.concatenate(tally.tiles)
    coverage = Coverage.together(covered) if covered else None
    scores |= coverage.scores() if coverage else {}
    return ProbeResult(method, scores, classes, *kept, labelled, confusion=confusion, sums=sums, coverage=coverage)


def confusion_scores(
    counts: np.ndarray, classes: Sequence[str]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Scores from a confusion matrix of pixels, rows true and columns predicted, (K, K).

    Returns:
        ``miou`` and ``macro_f1`` (means over the classes that are there or predicted), ``weighted_f1`` (by support),
        ``accuracy``; and of each class ``iou``, ``f1``, ``precision``, ``recall`` and ``support`` (NaN, NaN, NaN, NaN
        and 0 of one that is neither there nor predicted).

    Raises:
        ValueError: all labelled pixels are of one class, or there is none.
    """
    counts = counts.astype(np.float64)
    hits, true, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    if np.count_nonzero(true) < 2:
        what = f"of class {classes[int(true.argmax())]}" if true.any() else "without label"
        raise ValueError(
            f"score: all pixels of the test split are {what}, so no score says anything; choose a split with several "
            "classes"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = hits / (true + predicted - hits)
        f1 = 2 * hits / (true + predicted)
        precision = np.where(predicted > 0, hits / predicted, 0.0)
        recall = np.where(true > 0, hits / true, 0.0)
    seen = (true + predicted) > 0
    scores = {
        "miou": float(iou[seen].mean()),
        "macro_f1": float(f1[seen].mean()),
        "weighted_f1": float((f1[seen] * true[seen]).sum() / true.sum()),
        "accuracy": float(hits.sum() / true.sum()),
    }
    columns = {"iou": iou, "f1": f1, "precision": precision, "recall": recall}
    return scores, {
        name: {key: float(values[k]) if seen[k] else float("nan") for key, values in columns.items()}
        | {"support": float(true[k])}
        for k, name in enumerate(classes)
    }


class _Counts:
    """A confusion matrix."""

    def __init__(self, classes: int) -> None:
        self.counts = np.zeros((classes, classes), dtype=np.int64)
        self.tiles: list[np.ndarray] = []  # (B, K, 3) of each batch

    def add(self, target: np.ndarray, prediction: np.ndarray, known: np.ndarray) -> None:
        """Labels, predictions and which are labelled, (B, H, W)."""
        tiles, classes = len(target), len(self.counts)
        tile = np.broadcast_to(np.arange(tiles)[:, None, None], known.shape)[known]
        flat = (tile * classes + target[known].astype(np.int64)) * classes + prediction[known]
        counts = np.bincount(flat, minlength=tiles * classes**2).reshape(tiles, classes, classes)
        self.counts += counts.sum(0)
        self.tiles.append(np.stack([counts.diagonal(axis1=1, axis2=2), counts.sum(2), counts.sum(1)], axis=-1))

    def scores(self, names: Sequence[str]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        return confusion_scores(self.counts, names)


class _Moments:
    """Sums of a quantity and of its errors, about the first value, in float64."""

    def __init__(self) -> None:
        self.counts = None  # of classes
        self.shift: float | None = None
        self.tiles: list[np.ndarray] = []  # (B, 1, 5) number, target, its square, squared and absolute error

    def add(self, target: np.ndarray, prediction: np.ndarray, known: np.ndarray) -> None:
        """Labels, predictions and which are labelled, (B, H, W)."""
        if self.shift is None and known.any():
            self.shift = float(target[known][0])
        target, prediction = (np.where(known, a, 0).astype(np.float64) for a in (target, prediction))
        error, moved = prediction - target, np.where(known, target - (self.shift or 0.0), 0)
        sums = np.stack([known, moved, moved**2, error**2, np.abs(error)], axis=-1).sum((1, 2))  # (B, 5)
        self.tiles.append(sums[:, None])

    def scores(self, names: Sequence[str]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        count, total, squares, error, absolute = np.concatenate(self.tiles).sum((0, 1))
        spread = squares - total**2 / max(count, 1)
        if spread <= 0:
            raise ValueError(
                f"score: {names[0]} is the same in all {count:.0f} labelled pixels of the test split, so R2 is "
                "undefined; choose another split"
            )
        scores = {
            "r2": float(1 - error / spread),
            "rmse": float(np.sqrt(error / count)),
            "mae": float(absolute / count),
        }
        return scores, {names[0]: dict(scores)}
