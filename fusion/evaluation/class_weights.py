"""How often each class is labelled, and weights in a loss by which rare ones count as much as common ones."""

from __future__ import annotations

import numpy as np

from fusion.data import TileDataset

__all__ = ["balanced_weights", "class_shares"]

_READ = 64  # maps of labels that are held at once


def balanced_weights(labelled: TileDataset) -> tuple[list[float], tuple[str, ...]]:
    """For ``class_weights`` of :class:`fusion.training.finetuning.Finetuning`, from the labels that are trained on.

    With n labels of K classes, c of them of a class, its weight is n / (K c), as in scikit-learn's ``"balanced"``: all
    classes that occur weigh the same together. Labels of tiles that are no maps count tiles, maps count pixels. Of
    several classes a tile, each is a question of two answers, and the weight of yes against no is (n - c) / c.

    Returns:
        (K,) weights, 0 for a class without a label (a class that all tiles have keeps 1), and a note that names those
        without.

    Raises:
        ValueError: labels of a quantity, or none at all.
    """
    if labelled.task not in ("multiclass", "multilabel"):
        raise ValueError(
            f"class_weights='balanced' is for labels of classes; these {len(labelled)} tiles have "
            f"{labelled.task or 'no'} labels. Leave class_weights out"
        )
    counts, total = _counts(labelled)
    classes = len(counts)
    if not counts.any():
        raise ValueError(
            f"class_weights='balanced': none of {len(labelled)} tiles, e.g. {labelled.names[0]}, has a label to count"
        )
    numerator, times = (total - counts, 1) if labelled.task == "multilabel" else (np.full(classes, total), classes)
    weights = np.divide(numerator, times * counts, out=np.zeros(classes), where=counts > 0)
    if labelled.task == "multilabel":
        weights[counts == total] = 1.0  # or what is always there would teach nothing
    absent = [name for name, count in zip(labelled.classes, counts, strict=True) if not count]
    kind = "pixel" if labelled.dense else "tile"
    told = (f"balanced class weights: no labelled {kind} of {', '.join(absent)} in training, weight 0",)
    return weights.tolist(), told if absent else ()


def class_shares(labelled: TileDataset) -> list[float]:
    """(K,) share of each of the exclusive classes among the labels of tiles, or of the pixels of maps; 0 of all where
    nothing is labelled."""
    counts, total = _counts(labelled)
    return (counts / max(total, 1)).tolist()


def _counts(labelled: TileDataset) -> tuple[np.ndarray, int]:
    """(K,) labels of each class, and of all: of tiles, or of pixels of maps."""
    classes = len(labelled.classes)
    counts, total = np.zeros(classes, dtype=np.int64), 0
    for first in range(0, len(labelled), _READ):
        labels = labelled.subset(range(first, min(first + _READ, len(labelled)))).labels().numpy()
        if labelled.task == "multilabel":
            counts, total = counts + (labels > 0.5).sum(0), total + len(labels)
            continue
        known = labels[(labels != labelled.ignore_index) & (labels >= 0)]
        counts, total = counts + np.bincount(known, minlength=classes), total + known.size
    return counts, total
