"""How much a simple model can read from frozen features: linear probe and nearest neighbours.

The same protocol serves pretrained encoders, random encoders and raw statistics, so that only features differ.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .coverage import Coverage
from .features import Features
from .metrics import confusion, per_class, score
from .penalties import chosen_setting, linear_model, told_of_folds
from .regressors import prepared

__all__ = ["ProbeResult", "fit_and_score", "knn_probe", "linear_probe"]

_BLOCK = 1024  # test tiles whose distances to all training tiles are held at once


@dataclass(frozen=True)
class ProbeResult:
    """What a probe reached on the test tiles.

    Attributes:
        method: e.g. ``"linear"``.
        scores: see :func:`fusion.evaluation.metrics.score`.
        per_class: see :func:`fusion.evaluation.metrics.per_class`.
        target, prediction: of the test tiles.
        labelled: number of labelled tiles used.
        setting: what was chosen by cross-validation.
        notes: what a reader must know, e.g. a class without a labelled tile.
        confusion: counts of tiles or pixels, see :func:`fusion.evaluation.metrics.confusion`; None for quantities.
        sums: of each tile where labels are maps, (N, K, 3) or (N, 1, 5), see
            :func:`fusion.evaluation.intervals.sample_sums`.
        coverage: of each tile, where a quantity has an interval, see :class:`fusion.evaluation.coverage.Coverage`.
    """

    method: str
    scores: dict[str, float]
    per_class: dict[str, dict[str, float]]
    target: np.ndarray
    prediction: np.ndarray
    labelled: int
    setting: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None
    sums: np.ndarray | None = None
    coverage: Coverage | None = None


def linear_probe(train: Features, test: Features, *, seed: int = 0, groups: np.ndarray | None = None) -> ProbeResult:
    """Standardised features into a linear model: ridge regression of quantities, logistic regression or discriminant
    analysis of classes, logistic regressions of one class against the rest for multi-label.

    Which of them, and the strength of its penalty, is chosen on the training tiles alone, by folds of whole blocks of
    ground (of at most 5000 tiles): by macro F1, or for ridge the strongest whose error is within one standard error of
    the smallest, see :func:`fusion.evaluation.penalties.linear_model`. Where no blocks are known single tiles are
    left out, and the notes say so. Missing values (of a missing modality) take the training mean.

    Args:
        groups: (N,) of the training tiles; a fold takes whole groups. By default ``train.blocks``.

    Raises:
        ValueError: no labels, one tile, one class, features without a number, a test split that tells nothing, or
            groups of another number of tiles.
    """
    task = require_labels("linear probe", train, test)
    groups = train.blocks if groups is None else groups
    if groups is not None and len(groups) != len(train):
        raise ValueError(f"linear probe: {len(groups)} groups of {len(train)} tiles; give one a tile")
    fitted, result = fit_and_score("linear", linear_model(task, train.labels, seed, groups), train, test)
    notes = (*result.notes, *told_of_folds(groups))
    return replace(result, setting=chosen_setting(fitted[-1]), notes=notes)


def knn_probe(train: Features, test: Features, *, k: int = 20, temperature: float = 0.07) -> ProbeResult:
    """Weighted vote (or mean) of the ``k`` nearest training tiles by cosine of standardised features.

    Weights are exp(cosine / temperature), as in the evaluation of self-supervised encoders (Wu et al. 2018, 3.4).

    Raises:
        ValueError: as :func:`linear_probe`.
    """
    task = require_labels("kNN probe", train, test)
    k = min(k, len(train))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a column that is NaN throughout; it becomes 0
        centre, spread = np.nanmean(train.x, axis=0), np.nanstd(train.x, axis=0)
    spread[~(spread > 0)] = 1.0
    a, b = (np.nan_to_num((f.x - centre) / spread) for f in (test, train))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    labels = np.eye(len(train.classes))[train.labels] if task == "multiclass" else train.labels.reshape(len(train), -1)
    votes = []
    for block in np.array_split(a, -(-len(a) // _BLOCK)):
        cosine = block @ b.T  # (n, train)
        nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]  # (n, k)
        weight = np.exp((np.take_along_axis(cosine, nearest, 1) - 1) / temperature)
        weight /= weight.sum(1, keepdims=True)
        votes.append(np.einsum("nk,nkc->nc", weight, labels[nearest]))
    vote = np.concatenate(votes)  # (test, classes)
    prediction = {"multiclass": vote.argmax(1), "multilabel": vote > 0.5, "regression": vote}[task]
    return result_of("knn", task, train, test, prediction, {"k": k})


def fit_and_score(method: str, estimator: Any, train: Features, test: Features) -> tuple[Any, ProbeResult]:
    """Imputes and standardises, fits any scikit-learn estimator, and scores it on ``test``."""
    task = require_labels(method, train, test)
    pipeline = fitted_to(prepared(estimator), train)
    return pipeline, result_of(method, task, train, test, pipeline.predict(test.x.astype(np.float64)), {})


def fitted_to(pipeline: Any, train: Features) -> Any:
    """``pipeline`` after it has learned the labels of ``train``; of a class with few labels the notes tell."""
    from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

    with warnings.catch_warnings():
        for category in (ConvergenceWarning, UndefinedMetricWarning):
            warnings.simplefilter("ignore", category)
        # A class with few labels is told in the notes, once, by name.
        warnings.filterwarnings("ignore", "Label ")
        labels = train.labels.ravel() if train.labels.ndim == 2 and train.labels.shape[1] == 1 else train.labels
        if train.task == "multilabel":
            labels = train.labels.astype(int)
        return pipeline.fit(train.x.astype(np.float64), labels)


def require_labels(method: str, train: Features, test: Features) -> str:
    for split, features in (("training", train), ("test", test)):
        if features.y is None and features.task is not None:
            raise ValueError(
                f"{method}: the labels of the {split} tiles are maps, a probe wants one a tile. Labels that are maps "
                "are probed by patch (fusion probe), or learnt by fine-tuning; or give the reader labels of tiles "
                "(reduction: majority)"
            )
        if features.y is None or features.task is None:
            raise ValueError(f"{method}: the {split} tiles have no labels; give the reader a label file or variable")
        empty = np.flatnonzero(np.isnan(features.x).all(axis=1))
        if len(empty):
            raise ValueError(
                f"{method}: all features of {len(empty)} of {len(features)} {split} tiles are NaN, e.g. "
                f"{features.names[empty[0]]}: nothing was observed there. Leave these tiles out, or add a modality"
            )
        if np.isinf(features.x).any():
            raise ValueError(f"{method}: features of {split} tiles are infinite; see fusion data check")
    if train.task != test.task or train.classes != test.classes or train.x.shape[1] != test.x.shape[1]:
        raise ValueError(
            f"{method}: training and test features differ: {train.task} {train.classes} with {train.x.shape[1]} "
            f"columns, {test.task} {test.classes} with {test.x.shape[1]}"
        )
    if len(train) < 2:
        raise ValueError(f"{method}: {len(train)} labelled tile ({train.names[0]}) is not enough; give at least two")
    if train.task != "regression" and _classes_to_learn(train) < 2:
        raise ValueError(
            f"{method}: the {len(train)} labelled tiles have one class only ({_labelled_classes(train)}), so there is "
            "nothing to learn; label others, or draw a larger fraction"
        )
    return str(train.task)


def _classes_to_learn(train: Features) -> int:
    if train.task == "multiclass":
        return len(np.unique(train.labels))
    varies = (train.labels.min(0) < 0.5) & (train.labels.max(0) > 0.5)
    return 2 if varies.any() else 1


def _labelled_classes(train: Features) -> str:
    indices = np.unique(train.labels) if train.task == "multiclass" else np.flatnonzero(train.labels.max(0) > 0.5)
    return ", ".join(train.classes[int(k)] for k in indices) or "none"


def result_of(
    method: str, task: str, train: Features, test: Features, prediction: np.ndarray, setting: dict[str, Any]
) -> ProbeResult:
    target = test.labels.reshape(len(test), -1) if task == "regression" else test.labels
    prediction = np.asarray(prediction).reshape(target.shape)
    notes: list[str] = []
    if task != "regression":
        prediction = prediction.astype(int)
        notes += never_learned(train)
    return ProbeResult(
        method,
        score(task, target, prediction),
        per_class(task, target, prediction, train.classes),
        target,
        prediction,
        len(train),
        setting,
        tuple(notes),
        confusion(task, target, prediction, len(train.classes)),
    )


def never_learned(train: Features, of: str = "tile") -> list[str]:
    """A note on the classes without a label among ``train``; none where there is no such class."""
    if train.task == "regression":
        return []
    seen = np.unique(train.labels) if train.task == "multiclass" else np.flatnonzero(train.labels.max(0) > 0.5)
    missing = [name for k, name in enumerate(train.classes) if k not in seen]
    return [f"no labelled {of} of {', '.join(missing)}: never predicted, F1 0 where it occurs"] if missing else []
