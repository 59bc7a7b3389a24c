"""Values of points and polygons as classes or as a quantity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..units import LARGEST
from .features import Features
from .placed import PlacedLabels, Value

__all__ = ["Valued", "valued"]

_LARGEST_CODE = 2.0**53  # beyond it not every whole number is a float64 of its own
_TOLD = 8  # values that a message lists


@dataclass(frozen=True)
class Valued:
    """Features that have a label.

    Attributes:
        classes: their names; none for a quantity.
        codes: (n,) int64 positions among the classes, or float32 quantities.
    """

    features: Features
    classes: tuple[str, ...]
    codes: np.ndarray


def valued(labels: PlacedLabels, features: Features) -> Valued:
    """The features whose value is a label; the others are left out and counted.

    Raises:
        ValueError: values that are no such labels, a value that the classes do not name, or none is left.
    """
    name, remarks = f"{features.path}: field {labels.field!r}", features.remarks
    missing = features.values.isna().to_numpy()
    if missing.any():
        remarks["missing value"] = (
            f"labels: {missing.sum()} of {len(features)} features of {features.path.name} have no {labels.field} and "
            "are left out"
        )
    features = features.only(~missing)
    if not len(features):
        raise ValueError(f"{name} has no value in any feature")
    values = _values(labels, features, name)
    if labels.nodata:
        if values.dtype == object:
            raise ValueError(f"{name} holds text, nodata are numbers; list what counts as classes: {{name: value}}")
        there = ~np.isin(values, labels.nodata)
        features, values = features.only(there), values[there]
        if not len(features):
            raise ValueError(f"{name} holds nothing but nodata ({', '.join(f'{v:g}' for v in labels.nodata)})")
    if labels.quantity:
        return Valued(features, (), values.astype(np.float32))
    found, codes = _classes(labels, values, name)
    known = codes >= 0
    if not known.all():
        others = [str(value) for value in np.unique(values[~known])]
        remarks["other values"] = (
            f"labels: {(~known).sum()} of {len(features)} features of {features.path.name} have a {labels.field} that "
            f"classes do not list, e.g. {', '.join(others[:3])}, and are left out"
        )
    if not known.any():
        raise ValueError(f"{name} has none of the values that classes list; it has {_some(values)}")
    features, codes = features.only(known), codes[known]
    counts = np.bincount(codes, minlength=len(found))
    single = [class_name for class_name, count in zip(found, counts, strict=True) if count == 1]
    if single:
        remarks["single"] = (
            f"labels: {len(single)} of {len(found)} classes have a single feature, {', '.join(single[:_TOLD])}: it is "
            "in one split, and scores of the class mean little"
        )
    return Valued(features, found, codes)


def _values(labels: PlacedLabels, features: Features, name: str) -> np.ndarray:
    """(n,) object of text, int64, or float64 of a quantity."""
    import pandas as pd

    series: Any = features.values
    if pd.api.types.is_bool_dtype(series):
        series = series.map(str)
    if pd.api.types.is_numeric_dtype(series):
        numbers: np.ndarray = series.to_numpy(dtype=float)
        if not np.isfinite(numbers).all():
            raise ValueError(f"{name} is infinite in {(~np.isfinite(numbers)).sum()} of {len(numbers)} features")
        huge = np.abs(numbers) >= (LARGEST if labels.quantity else _LARGEST_CODE)
        huge &= ~np.isin(numbers, labels.nodata or ())
        if huge.any():
            what = "measured quantity" if labels.quantity else "code of a class"
            raise ValueError(
                f"{name} holds {int(huge.sum())} values such as {numbers[huge][0]:g}: no {what} is as large; say "
                "nodata in the labels, or correct the file"
            )
        if labels.quantity:
            return numbers
        fractions = numbers[numbers != np.round(numbers)]
        if len(fractions):
            raise ValueError(
                f"{name} holds fractions, e.g. {fractions[0]:g}, which are no classes; say kind: quantity (or "
                "reduction: mean)"
            )
        return np.asarray(series.to_numpy(dtype=np.int64))
    texts: np.ndarray = series.to_numpy(dtype=object)
    odd = [value for value in texts if not isinstance(value, str)]
    if odd:
        raise ValueError(f"{name} holds {type(odd[0]).__name__}, e.g. {odd[0]}; text or numbers are wanted")
    if labels.quantity:
        raise ValueError(f"{name} holds text, e.g. {texts[0]!r}, a quantity is wanted; leave kind: quantity out")
    return texts


def _classes(labels: PlacedLabels, values: np.ndarray, name: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Names, and the position of each value among them; -1 for values that a mapping does not list."""
    wanted: dict[Value, int] = {}
    text = values.dtype == object
    if labels.classes and isinstance(labels.classes, Mapping):
        names = tuple(labels.classes)
        for k, own in enumerate(labels.classes.values()):
            for value in own:
                if text != isinstance(value, str):
                    kind = "text" if text else "whole numbers"
                    raise ValueError(f"{name} holds {kind}, classes give {value!r} for {names[k]}")
                if value in wanted:
                    raise ValueError(f"{name}: classes list {value!r} twice, for {names[wanted[value]]} and {names[k]}")
                wanted[value] = k
        return names, np.array([wanted.get(value, -1) for value in values.tolist()], dtype=np.int64)
    there, codes = np.unique(values, return_inverse=True)
    if not labels.classes:
        return tuple(map(str, there)), codes
    names = tuple(labels.classes)
    unknown = [str(value) for value in there if str(value) not in names]
    if unknown:
        more = f" and {len(unknown) - _TOLD} more" if len(unknown) > _TOLD else ""
        raise ValueError(
            f"{name} has {', '.join(unknown[:_TOLD])}{more}, not among classes {', '.join(names)}; add them, or give "
            "classes as name: value, where what is not listed is no label"
        )
    return names, np.array([names.index(str(value)) for value in there], dtype=np.int64)[codes]


def _some(values: np.ndarray) -> str:
    there = np.unique(values)
    return ", ".join(map(str, there[:_TOLD])) + (", ..." if len(there) > _TOLD else "")
