"""How what a model says becomes the bands of rasters: classes, quantities, probabilities, entropy."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ..training.conformal import ConformalInterval
from .cog import Sheet

__all__ = ["NO_CLASS", "sheets_of"]

NO_CLASS = 255
_STEPS = 254  # of a share, 0 to 254; 255 is no data


def sheets_of(
    task: str,
    classes: tuple[str, ...],
    tags: Mapping[str, str],
    *,
    probabilities: bool = False,
    entropy: bool = False,
    intervals: Sequence[ConformalInterval] = (),
) -> dict[str, Sheet]:
    """``prediction`` and, if wanted, ``probabilities`` and ``entropy``: of (rows, columns, K) probabilities or
    quantities.

    Args:
        task: ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        classes: K names.
        tags: of every file.
        intervals: of quantities, one each: then a band of the value, of its lower and of its upper end.
    """
    if task == "regression":
        known = {"FUSION_DECODE": "value = v", **tags}
        if not intervals:
            return {"prediction": Sheet(_quantity, classes, "float32", np.nan, tags=known)}
        bands = tuple(f"{name}{end}" for name in classes for end in ("", "_lower", "_upper"))
        known["FUSION_INTERVAL"] = json.dumps([one.to_dict() for one in intervals])
        store = partial(_with_ends, intervals)
        return {"prediction": Sheet(store, bands, "float32", np.nan, tags=known, together=len(classes) == 1)}
    listed = {"FUSION_CLASSES": json.dumps(list(classes)), **tags}
    if task == "multiclass":
        known = listed | {"FUSION_DECODE": f"class = FUSION_CLASSES[v], {NO_CLASS} = no data"}
        sheets = {"prediction": Sheet(_class, ("class",), "uint8", NO_CLASS, categories=classes, tags=known)}
    else:
        known = listed | {"FUSION_DECODE": f"1 = present, 0 = absent, {NO_CLASS} = no data"}
        sheets = {"prediction": Sheet(_presence, classes, "uint8", NO_CLASS, tags=known)}
    if probabilities:
        scaled = listed | {"FUSION_DECODE": f"probability = v / {_STEPS}, {NO_CLASS} = no data"}
        sheets["probabilities"] = Sheet(_share, classes, "uint8", NO_CLASS, scale=1 / _STEPS, tags=scaled)
    if entropy:
        scaled = listed | {"FUSION_DECODE": f"entropy = v / {_STEPS} of the largest, {NO_CLASS} = no data"}
        uncertain = _entropy if task == "multiclass" else _entropy_of_each
        sheets["entropy"] = Sheet(uncertain, ("entropy",), "uint8", NO_CLASS, scale=1 / _STEPS, tags=scaled)
    return sheets


def _class(values: np.ndarray) -> np.ndarray:
    missing = np.isnan(values).any(axis=-1)
    best = np.nan_to_num(values).argmax(axis=-1)
    return np.where(missing, NO_CLASS, best).astype(np.uint8)[None]


def _presence(values: np.ndarray) -> np.ndarray:
    return _bytes(values > 0.5, values)


def _share(values: np.ndarray) -> np.ndarray:
    return _bytes(np.rint(np.nan_to_num(values).clip(0, 1) * _STEPS), values)


def _entropy(values: np.ndarray) -> np.ndarray:
    """-sum p ln p / ln K: 0 where one class is certain, 1 where all are alike (Shannon 1948)."""
    return _share(_surprise(values).sum(axis=-1, keepdims=True) / np.log(max(values.shape[-1], 2)))


def _entropy_of_each(values: np.ndarray) -> np.ndarray:
    """Of K classes of which any may be present: the mean over them of -(p ln p + (1 - p) ln(1 - p)) / ln 2."""
    return _share((_surprise(values) + _surprise(1 - values)).mean(axis=-1, keepdims=True) / np.log(2))


def _surprise(p: np.ndarray) -> np.ndarray:
    return -p * np.log(np.maximum(p, np.finfo(np.float32).tiny))  # NaN stays


def _bytes(stored: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(bands, rows, columns)"""
    return np.moveaxis(np.where(np.isnan(values), NO_CLASS, stored).astype(np.uint8), -1, 0)


def _with_ends(intervals: Sequence[ConformalInterval], values: np.ndarray) -> np.ndarray:
    half = np.stack([one.half_width(values[..., k]) for k, one in enumerate(intervals)], axis=-1)
    bands = np.stack([values, values - half, values + half], axis=-1)  # (rows, columns, T, 3)
    return np.moveaxis(bands.reshape(*values.shape[:2], -1), -1, 0)


def _quantity(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, -1, 0)
