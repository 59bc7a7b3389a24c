"""The pictures of an experiment's report; what they are drawn with is :mod:`fusion.evaluation`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from ..data import TileDataset
from ..evaluation import Picture, Table, extract
from ..evaluation.maps import embedding_map
from ..evaluation.plots import Counted, class_bars, confusion_matrix, loss_curves, observed_predicted
from ..training.systems import config_of
from .scores import Named
from .state import State

__all__ = ["embedding", "losses", "per_class"]


def losses(log: Path, state: State, what: str = "pretraining") -> Picture:
    """Curves of one training run."""
    tiles = ", ".join(f"{name} {len(part)} tiles" for name, part in state.data.items() if name in ("train", "val"))
    return loss_curves(log, f"Run {what!r}: {tiles}; seed {state.seed}.")


def per_class(named: Named, dataset: TileDataset, conditions: str) -> Sequence[Picture | Table]:
    """Scores by class of every row, and what the first row confuses; a scatter for quantities. Of maps they count
    pixels."""
    first_name, first = next(iter(named.items()))
    result = first[0].result
    counted: Counted = "pixels" if dataset.dense else "tiles"
    if dataset.task == "regression":
        return [
            observed_predicted(
                result.target,
                result.prediction,
                dataset.classes[0],
                counted=counted,
                conditions=f"{conditions} {first_name}, first draw.",
            )
        ]
    means = {name: _mean_by_class([row.result.per_class for row in rows]) for name, rows in named.items()}
    metric = "iou" if dataset.dense else "f1"
    samples = len(result.target) if dataset.task == "multilabel" else None
    pictures = [class_bars(means, metric, f"Mean over draws. {conditions}", counted=counted, samples=samples)]
    if dataset.task == "multiclass":
        note = f"{first_name}, first draw of the labels. {conditions}"
        pictures.append(confusion_matrix(result.target, result.prediction, dataset.classes, note, counted=counted))
    return pictures


def _mean_by_class(draws: Sequence[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {metric: float(np.mean([draw[name][metric] for draw in draws])) for metric in numbers}
        for name, numbers in draws[0].items()
    }


def embedding(model: nn.Module, dataset: TileDataset, state: State) -> Picture:
    """PCA-RGB of all patches beside true colour and, if tiles have a class, the truth. Labels that are maps are not
    read."""
    classes = dataset.labels().numpy() if dataset.task == "multiclass" and not dataset.dense else None
    features = extract(model, dataset, level="patch")
    known = {m.name for m in config_of(model).modalities}
    shown = dataset.with_modalities([m.name for m in dataset.modalities if m.name in known])
    return embedding_map(features, shown, classes, f"All splits; the model saw no label. Seed {state.seed}.")
