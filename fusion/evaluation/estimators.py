"""From scikit-learn to torch: estimators on frozen features that go into a file with their encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from fusion.training.estimators import Estimator, ForestEstimator, LinearEstimator

from .features import Features
from .penalties import chosen_model, chosen_setting, linear_model, told_of_folds
from .probes import fitted_to, never_learned, require_labels
from .regressors import prepared, random_forest

__all__ = ["Fitted", "Kind", "fit_estimator"]

Kind = Literal["linear", "forest"]

_TREES = 200
_LEAVES = 4000  # of a tree, about: more rows only make the file larger
_NEVER = -1e4  # logit of a class that has no label
_ALWAYS = 30.0  # logit of a class that every row has


@dataclass(frozen=True)
class Fitted:
    """An estimator, what it chose, and what a reader must know of it."""

    estimator: Estimator
    setting: dict[str, Any]
    notes: tuple[str, ...]


def fit_estimator(
    kind: Kind, train: Features, *, seed: int = 0, groups: np.ndarray | None = None, of: str = "tile"
) -> Fitted:
    """Learns the labels of ``train`` and turns what was learned into tensors.

    ``"linear"`` is what :func:`~fusion.evaluation.linear_probe` fits, its penalty chosen in the same way;
    ``"forest"`` a random forest of 200 trees whose leaves have at least a 4000th of the rows. Missing values take the
    mean of the training rows.

    Args:
        groups: (N,) blocks of the rows; a fold that the penalty is chosen by takes whole ones. One block is none. By
            default ``train.blocks``.
        of: what a row is, in messages.

    Raises:
        ValueError: no labels, too few rows, one class, features that are no numbers, or another kind.
    """
    if kind not in ("linear", "forest"):
        raise ValueError(f"an estimator is 'linear' or 'forest', not {kind!r}")
    task = require_labels(kind, train, train)
    notes = tuple(never_learned(train, of))
    if kind == "forest":
        pipeline = fitted_to(
            prepared(random_forest(task, _TREES, -(-len(train) // _LEAVES), seed), standardise=False), train
        )
        return Fitted(_forest_tensors(pipeline, train), {"trees": _TREES}, notes)
    groups = train.blocks if groups is None else groups
    pipeline = fitted_to(prepared(linear_model(task, train.labels, seed, groups)), train)
    notes = (*notes, *told_of_folds(groups))
    return Fitted(_linear_tensors(pipeline, train), chosen_setting(pipeline[-1]), notes)


def _linear_tensors(pipeline: Any, train: Features) -> LinearEstimator:
    imputer, scaler, last = (step for _, step in pipeline.steps)
    last = chosen_model(last)
    outputs, inputs = len(train.classes), train.x.shape[1]
    weight, bias = np.zeros((outputs, inputs)), np.full(outputs, _NEVER if train.task != "regression" else 0.0)
    if train.task == "regression":
        weight[:], bias[:] = np.reshape(last.coef_, weight.shape), last.intercept_
    elif train.task == "multilabel":
        for k, one in enumerate(last.estimators_):
            if hasattr(one, "coef_"):
                weight[k], bias[k] = one.coef_[0], one.intercept_[0]
            else:  # the same for all rows
                bias[k] = _ALWAYS if train.labels[0, k] > 0.5 else -_ALWAYS
    elif len(last.classes_) == 2:  # one score, of the second against the first
        first, second = last.classes_
        bias[first], weight[second], bias[second] = 0.0, last.coef_[0], last.intercept_[0]
    else:
        weight[last.classes_], bias[last.classes_] = last.coef_, last.intercept_
    found = LinearEstimator(inputs, outputs)
    tensors = {"fill": imputer.statistics_, "mean": scaler.mean_, "scale": scaler.scale_}
    found.load_state_dict(_tensors(tensors | {"coefficients": weight, "intercept": bias}))
    return found


def _forest_tensors(pipeline: Any, train: Features) -> ForestEstimator:
    imputer, forest = (step for _, step in pipeline.steps)
    outputs, task = len(train.classes), str(train.task)
    roots, features, thresholds, branches, values, depth = [], [], [], [], [], 0
    nodes, leaves = 0, 0
    for tree in (one.tree_ for one in forest.estimators_):
        leaf = tree.children_left < 0
        number = np.where(leaf, -1 - (leaves + np.cumsum(leaf) - 1), nodes + np.cumsum(~leaf) - 1)
        roots.append(number[0])
        features.append(tree.feature[~leaf])
        thresholds.append(_not_above(tree.threshold[~leaf]))
        branches.append(number[np.stack([tree.children_left[~leaf], tree.children_right[~leaf]], axis=1)])
        values.append(_leaf_values(task, tree.value[leaf], forest, outputs))
        nodes, leaves, depth = nodes + int((~leaf).sum()), leaves + int(leaf.sum()), max(depth, tree.max_depth)
    logits = {"regression": 0, "multiclass": 1, "multilabel": 2}[task]
    found = ForestEstimator(train.x.shape[1], outputs, len(roots), nodes, leaves, depth, logits)
    joined = (np.concatenate(part) for part in (features, thresholds, branches, values))
    names = ("feature", "threshold", "branches", "values")
    tensors = dict(zip(names, joined, strict=True)) | {"roots": np.array(roots), "fill": imputer.statistics_}
    found.load_state_dict(_tensors(tensors))
    return found


def _not_above(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64: a float32 is above both or above neither."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)


def _leaf_values(task: str, values: np.ndarray, forest: Any, outputs: int) -> np.ndarray:
    """(leaves, K) of scikit-learn's (leaves, targets, classes of a target)."""
    if task == "regression":
        return values[:, :, 0]
    shares = values / values.sum(axis=2, keepdims=True)
    found = np.zeros((len(values), outputs))
    if task == "multiclass":
        found[:, forest.classes_] = shares[:, 0]
        return found
    several = forest.classes_ if forest.n_outputs_ > 1 else [forest.classes_]
    for k, classes in enumerate(several):
        there = np.flatnonzero(np.asarray(classes) == 1)
        found[:, k] = shares[:, k, there[0]] if len(there) else 0.0
    return found


def _tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
