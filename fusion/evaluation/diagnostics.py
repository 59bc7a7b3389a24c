"""Whether representations collapsed, and whether modalities of one place find each other. No labels needed."""

from __future__ import annotations

import numpy as np

from ..data.given import numbers
from .features import Features

__all__ = ["diagnose", "effective_rank", "retrieval"]


def effective_rank(x: np.ndarray) -> float:
    """Exponential of the entropy of the normalised singular values of centred features (Roy and Vetterli 2007).

    Between 1 (all on one line: collapsed) and min(N - 1, D). ``x`` is (N, D).

    Raises:
        ValueError: fewer than two rows, or values that are not finite.
    """
    x = numbers(x, "effective_rank: x").astype(np.float64)
    if x.ndim != 2 or len(x) < 2 or not np.isfinite(x).all():
        raise ValueError(f"effective_rank: (N, D) finite features with N >= 2 wanted, {x.shape} given")
    singular = np.linalg.svd(x - x.mean(0), compute_uv=False)
    if singular[0] <= 1e-12 * max(1.0, np.abs(x).max()):
        return 1.0  # all rows are the same
    share = singular / singular.sum()
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))


def retrieval(a: np.ndarray, b: np.ndarray, top: int = 1) -> float:
    """Share of rows of ``a`` (N, D) whose own row of ``b`` (N, D) is among the ``top`` nearest by cosine.

    Chance is top / N. Both are centred first, so that what all places share does not count.

    Raises:
        ValueError: shapes differ, or values are not finite.
    """
    if a.shape != b.shape:
        raise ValueError(f"retrieval: the same places in both are wanted, {a.shape} and {b.shape} given")
    a, b = (numbers(v, "retrieval").astype(np.float64) for v in (a, b))
    unknown = sum(int((~np.isfinite(v)).any(axis=1).sum()) for v in (a, b))
    if unknown:  # which would be nearest to everything
        raise ValueError(f"retrieval: {unknown} rows hold values that are not finite; leave these places out of both")
    a, b = a - a.mean(0), b - b.mean(0)
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    cosine = a @ b.T
    better = (cosine > np.diag(cosine)[:, None]).sum(1)
    return float((better < top).mean())


def diagnose(features: Features) -> dict[str, float]:
    """Effective rank, number of dimensions, and mean cosine between different tiles (near 1: collapsed)."""
    x = features.x.astype(np.float64)
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    n = len(x)
    total = float(np.square(unit.sum(0)).sum())  # sum of all N^2 cosines
    return {
        "effective_rank": effective_rank(x),
        "dimensions": float(x.shape[1]),
        "mean_cosine": (total - n) / (n * (n - 1)),
    }
