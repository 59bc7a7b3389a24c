"""How often the intervals of predicted quantities hold the true value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fusion.training.conformal import ConformalInterval

from .intervals import Interval, bootstrap

__all__ = ["Coverage"]


@dataclass(frozen=True)
class Coverage:
    """How often intervals held the true value, and how wide they were.

    Attributes:
        level: what was aimed at.
        sums: (N, T, 3) of N tiles and T quantities: labels, how many the interval held, sum of widths.
    """

    level: float
    sums: np.ndarray

    @classmethod
    def of(cls, intervals: Sequence[ConformalInterval], prediction: np.ndarray, target: np.ndarray) -> Coverage:
        """Args: prediction, target: (N, T, ...), NaN where there is no label."""
        known = np.isfinite(target)
        half = np.stack([one.half_width(prediction[:, t]) for t, one in enumerate(intervals)], axis=1)  # (N, T, ...)
        held = known & (np.abs(target - prediction) <= half)
        parts = np.stack([known, held, np.where(known, 2 * half, 0)], axis=2).astype(np.float64)  # (N, T, 3, ...)
        return cls(intervals[0].level, parts.sum(axis=tuple(range(3, parts.ndim))))

    @classmethod
    def together(cls, parts: Sequence[Coverage]) -> Coverage:
        """Of the tiles of all of them."""
        return cls(parts[0].level, np.concatenate([part.sums for part in parts]))

    def scores(self) -> dict[str, float]:
        """``interval_coverage``, a share, and ``interval_width`` in the unit of the quantity; means over quantities."""
        return {name: _ratio([self], k, None) for k, name in enumerate(("interval_coverage", "interval_width"), 1)}

    @staticmethod
    def intervals(
        draws: Sequence[Coverage], blocks: np.ndarray | None, *, level: float = 0.95, seed: int = 0
    ) -> dict[str, Interval]:
        """Bootstrap intervals of the scores (the mean over several models) by blocks of the tiles."""

        def statistic(part: int) -> Callable[[np.ndarray], float]:
            return lambda rows: _ratio(draws, part, rows)

        count = len(draws[0].sums)
        return {
            name: bootstrap(statistic(k), count, blocks, level=level, seed=seed)
            for k, name in enumerate(("interval_coverage", "interval_width"), 1)
        }


def _ratio(draws: Sequence[Coverage], part: int, rows: np.ndarray | None) -> float:
    """A sum over tiles by the number of labels in them, the mean over quantities and draws; NaN without a label."""
    totals = [(one.sums if rows is None else one.sums[rows]).sum(0) for one in draws]  # (T, 3)
    if not all(total[:, 0].all() for total in totals):
        return float("nan")
    return float(np.mean([total[:, part] / total[:, 0] for total in totals]))
