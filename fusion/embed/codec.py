"""Embeddings in eight bits: the mapping of AlphaEarth Foundations, and what it costs.

Source: Brown et al., AlphaEarth Foundations (2025), as published in the Satellite Embedding data set: each of
the components of a unit vector is stored as the signed square root, so that the many small ones keep precision.
A mean or a cosine of the codes themselves is wrong: decode first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..data.given import numbers

__all__ = [
    "DECODE_FORMULA",
    "NODATA",
    "Dtype",
    "ErrorMeter",
    "QuantizationError",
    "as_stored",
    "decode",
    "decoded",
    "encode",
    "undecodable",
    "unit",
]

Dtype = Literal["float32", "int8"]

NODATA = -128
DECODE_FORMULA = "value = sign(v) * (v / 127.5)^2"


@dataclass(frozen=True)
class QuantizationError:
    """How far stored embeddings are from the model's, over all pixels with data.

    Attributes:
        mean_cosine: mean cosine between stored and original vector (1 is perfect).
        max_error: largest absolute error of one component.
    """

    mean_cosine: float
    max_error: float


class ErrorMeter:
    """Compares the directions of stored vectors with those of the model, block by block.

    Attributes:
        lost: vectors that are stored as no data, or the other way round.
    """

    def __init__(self) -> None:
        self._cosines, self._count, self._worst, self.lost = 0.0, 0, 0.0, 0

    def add(self, original: np.ndarray, stored: np.ndarray) -> None:
        """Takes vectors (..., D) and the same as they were read back, decoded; NaN where there is no data."""
        known = ~np.isnan(original).any(axis=-1)
        wanted, found = original[known], stored[known]
        self.lost += int((np.isnan(found).any(axis=-1)).sum() + (~np.isnan(stored[~known])).any(axis=-1).sum())
        if np.array_equal(wanted, found):  # nothing to calculate
            self._cosines, self._count = self._cosines + len(wanted), self._count + len(wanted)
            return
        wanted, found = wanted.astype(np.float64), found.astype(np.float64)
        direction, kept = unit(wanted), unit(found)
        self._cosines += float((direction * kept).sum())
        self._count += len(wanted)
        if len(wanted):
            self._worst = max(self._worst, float(np.abs(direction - kept).max()))

    def state(self) -> list[float]:
        """What :meth:`join` takes, in plain numbers."""
        return [self._cosines, self._count, self._worst, self.lost]

    def join(self, state: Sequence[float]) -> None:
        """Takes what another meter has measured."""
        cosines, count, worst, lost = state
        self._cosines, self._count = self._cosines + cosines, self._count + int(count)
        self._worst, self.lost = max(self._worst, worst), self.lost + int(lost)

    def result(self) -> QuantizationError:
        return QuantizationError(self._cosines / self._count if self._count else 1.0, self._worst)


def unit(vectors: np.ndarray, axis: int = -1) -> np.ndarray:
    """Vectors of length 1 along ``axis``; a zero vector stays zero, NaN stays NaN."""
    length: np.ndarray = np.linalg.norm(vectors, axis=axis, keepdims=True)
    return vectors / np.where(length == 0, 1, length)


def encode(values: np.ndarray) -> np.ndarray:
    """int8 codes of components in [-1, 1]; what is NaN or masked becomes :data:`NODATA`.

    Raises:
        ValueError: a component lies outside [-1, 1]: the vectors are not of unit length.
    """
    values = numbers(values, "encode: values").astype(np.float32)
    missing = np.isnan(values)
    magnitude = np.abs(np.where(missing, 0, values))
    if magnitude.size and magnitude.max() > 1 + 1e-5:
        raise ValueError(
            f"encode: components reach {magnitude.max():.3g}, outside [-1, 1]; pass vectors of unit length (`unit`)"
        )
    codes = np.clip(np.rint(127.5 * np.sqrt(magnitude)), 0, 127) * np.sign(np.where(missing, 0, values))
    return np.where(missing, NODATA, codes).astype(np.int8)


def decode(codes: np.ndarray) -> np.ndarray:
    """float32 components of int8 codes; :data:`NODATA` becomes NaN. Length is 1 up to rounding.

    Raises:
        TypeError: the codes are not int8.
    """
    codes = np.asarray(codes)
    if codes.dtype != np.int8:
        raise TypeError(f"decode: codes are int8, not {codes.dtype}")
    v = codes.astype(np.float32)
    return np.where(codes == NODATA, np.nan, np.sign(v) * (v / 127.5) ** 2).astype(np.float32)


def undecodable(path: Path, why: str) -> ValueError:
    """The error of codes that have no rule, or one that is not known here."""
    return ValueError(
        f"{path} holds int8 codes and nothing says how they are decoded: {why}. Open it with decoded=False and apply "
        "the rule of whoever made it"
    )


def as_stored(values: np.ndarray, dtype: Dtype) -> np.ndarray:
    """Vectors (..., D) as they lie in a file: float32, or the int8 codes of their directions."""
    return encode(unit(values)) if dtype == "int8" else values.astype(np.float32)


def decoded(stored: np.ndarray) -> np.ndarray:
    """float32 values of what lies in a file."""
    return decode(stored) if stored.dtype == np.int8 else stored
