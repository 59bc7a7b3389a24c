"""What every reader does with a series: which dates to take, and what to do with gaps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

__all__ = ["choose_dates", "counting_infinite", "fill_gaps", "without_infinite"]

_infinite: ContextVar[dict[str, int] | None] = ContextVar("infinite", default=None)


@contextmanager
def counting_infinite() -> Iterator[dict[str, int]]:
    """Within it, :func:`without_infinite` counts by modality how many values were infinite."""
    counts: dict[str, int] = {}
    token = _infinite.set(counts)
    try:
        yield counts
    finally:
        _infinite.reset(token)


def without_infinite(values: np.ndarray, name: str = "") -> np.ndarray:
    """The same with NaN for infinite values, which no instrument measures: -inf is the dB of no echo, inf a division.

    Args:
        name: of the modality, for whoever counts them.
    """
    infinite = np.isinf(values)
    if not infinite.any():
        return values
    counts = _infinite.get()
    if counts is not None:
        counts[name] = counts.get(name, 0) + int(infinite.sum())
    return np.where(infinite, values.dtype.type(np.nan), values)


def choose_dates(
    days: np.ndarray, quality: np.ndarray, limit: int | None, rng: np.random.Generator | None
) -> np.ndarray:
    """Positions (ascending) of at most ``limit`` usable dates.

    With ``rng`` a random draw. Without, the same ones every time: the span of days is cut into ``limit`` equal
    intervals, the best date of each is taken, and the best of the rest fill what empty intervals left.

    Args:
        days: (L,) days.
        quality: (L,) 0 for a date that must not be used, else larger is better, e.g. the clear share.
    """
    usable = np.flatnonzero(quality > 0)
    if limit is None or len(usable) <= limit:
        return usable
    if rng is not None:
        return np.sort(rng.choice(usable, limit, replace=False))
    span = days[usable].max() - days[usable].min() + 1
    interval = (days[usable] - days[usable].min()) * limit // span
    by_quality = np.argsort(-quality[usable], kind="stable")
    best = by_quality[np.unique(interval[by_quality], return_index=True)[1]]
    rest = by_quality[~np.isin(by_quality, best)]
    return np.sort(usable[np.concatenate([best, rest])[:limit]])


def fill_gaps(values: np.ndarray, max_missing: float = 0.5, name: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Replaces NaN pixels by the mean of the same band and date in the tile, or gives the date up.

    Args:
        values: (L, C, H, W) float with NaN, or an infinite value, where nothing was observed.
        max_missing: a date with a larger share of missing pixels in any band is not valid.
        name: of the modality, see :func:`without_infinite`.

    Returns:
        values without NaN (0 where not valid), and valid (L,) bool.
    """
    if np.isfinite(values).all():
        return values, np.ones(len(values), dtype=bool)
    values = without_infinite(values, name)
    missing = np.isnan(values)
    share = missing.mean(axis=(2, 3))  # (L, C)
    valid = (share <= max_missing).all(axis=1) & (share < 1).all(axis=1)
    total = np.where(missing, 0, values).sum(axis=(2, 3), dtype=np.float64)
    mean = total / np.maximum((~missing).sum(axis=(2, 3)), 1)
    filled = np.where(missing, mean[:, :, None, None], values).astype(values.dtype)
    filled[~valid] = 0
    return filled, valid
