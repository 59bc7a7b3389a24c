"""Linear models in closed form: a probe's classifier, and where a head may start so that it needs fewer steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["discriminant", "discriminants", "ridge_line"]

SHRINKAGE = 0.1


def discriminant(
    x: np.ndarray, labels: np.ndarray, classes: int, shrinkage: float = SHRINKAGE
) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis with a shrunk covariance (Friedman 1989): log posteriors, but for a constant.

    The covariance within classes is mixed with a multiple of the identity of the same trace. With more features than
    tiles the system is solved in the space of the tiles, so that neither side is large.

    Args:
        x: (N, F) finite, standardised.
        labels: (N,) in 0..classes-1. A class without a tile has the mean score of the others, so it is never the
            likeliest.
        shrinkage: share of the identity, in (0, 1].

    Returns:
        weight (K, F) and bias (K,), float64.
    """
    return next(discriminants(x, labels, classes, [shrinkage]))


def discriminants(
    x: np.ndarray, labels: np.ndarray, classes: int, shrinkages: Sequence[float]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """:func:`discriminant` for each of several shrinkages, which share their sums over tiles."""
    x = np.asarray(x, dtype=np.float64)
    count, (tiles, width) = np.bincount(labels, minlength=classes), x.shape
    known = np.flatnonzero(count)
    mean = np.stack([x[labels == k].mean(0) for k in known])  # (K, F)
    rest = x - mean[np.searchsorted(known, labels)]
    few = width <= tiles
    product = rest.T @ rest if few else rest @ rest.T  # of the smaller side
    variance = float((rest**2).sum()) / (tiles * width)
    seen = rest @ mean.T  # (N, K)
    for shrinkage in shrinkages:
        scale = (1 - shrinkage) / tiles
        ridge = max(shrinkage * variance, 1e-12)
        if few:
            solved = np.linalg.solve(scale * product + ridge * np.eye(width), mean.T).T
        else:  # (ridge I + scale R'R)^-1 = (I - R' (ridge / scale I + R R')^-1 R) / ridge
            inner = np.linalg.solve(product + ridge / max(scale, 1e-12) * np.eye(tiles), seen)
            solved = (mean - (rest.T @ inner).T) / ridge
        level = np.log(count[known] / tiles) - 0.5 * (solved * mean).sum(1)
        weight, bias = np.tile(solved.mean(0), (classes, 1)), np.full(classes, level.mean() - 1)
        weight[known], bias[known] = solved, level
        yield weight, bias


def ridge_line(x: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression, its penalty chosen by leave-one-out: weight (1, F) and bias (1,) for ``x`` (N, F), (N,)."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(np.logspace(-2, 6, 17)).fit(np.asarray(x, dtype=np.float64), target)
    return fitted.coef_[None], np.atleast_1d(fitted.intercept_)
