"""Intervals of predicted quantities: split conformal prediction, by bins of what is predicted.

Of calibration samples that the model was not fitted to, with absolute residuals ``r_i = |y_i - f(x_i)|``, i = 1..n, the
interval ``f(x) - q .. f(x) + q`` with ``q`` the ``ceil((n + 1) level)``-th smallest residual holds the true value of
another sample with a probability of at least ``level``, whatever the model and the distribution, if the samples are
exchangeable (Vovk, Gammerman & Shafer 2005, "Algorithmic Learning in a Random World"; Lei et al. 2018,
"Distribution-Free Predictive Inference for Regression", arXiv 1604.04173, section 2.2). Here ``q`` is that of the
samples whose predicted value is in the same bin (Mondrian, Vovk et al. chapter 4), so that it grows where errors grow.

Neighbouring pixels are alike and another region is not like the one calibrated on, so the probability is approximate:
how often the interval holds is to be measured on a test split.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["ConformalInterval", "fewest_residuals"]

_BINS = 10  # at most
_ENOUGH = 100  # residuals of a bin: then the quantile of 0.9 is known to about 0.03


@dataclass(frozen=True)
class ConformalInterval:
    """The interval of one quantity around its predicted value.

    Attributes:
        level: the probability aimed at.
        edges: (B - 1,) values, ascending, that part the predicted values into B bins; an edge belongs to the bin above.
        widths: (B,) half the width of the interval in each bin, in the unit of the quantity.
        counts: (B,) residuals that each is taken from.
    """

    level: float
    edges: tuple[float, ...]
    widths: tuple[float, ...]
    counts: tuple[int, ...]

    def __post_init__(self) -> None:
        ordered = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not 0 < self.level < 1 or not ordered or not len(self.edges) + 1 == len(self.widths) == len(self.counts):
            raise ValueError(
                f"ConformalInterval: level {self.level}, {len(self.edges)} edges, {len(self.widths)} widths, "
                f"{len(self.counts)} counts; a level between 0 and 1 is wanted, and ascending edges one fewer than "
                "widths and counts"
            )

    @classmethod
    def fit(cls, prediction: np.ndarray, target: np.ndarray, level: float = 0.9) -> ConformalInterval:
        """From calibration samples.

        Bins have as many samples each, up to ten of them; those with fewer than 100 are merged with a neighbour.

        Args:
            prediction, target: (n,) in the unit of the quantity.
            level: the probability aimed at.

        Raises:
            ValueError: fewer samples than an interval of that level takes.
        """
        prediction, residual = np.asarray(prediction, np.float64), np.abs(np.asarray(target, np.float64) - prediction)
        if len(residual) < fewest_residuals(level):
            raise ValueError(
                f"ConformalInterval: {len(residual)} residuals are too few for a level of {level:.0%}, which takes "
                f"{fewest_residuals(level)}; give more labels to calibrate on, or a lower level"
            )
        bins = min(_BINS, max(1, len(residual) // _ENOUGH))
        edges = np.unique(np.quantile(prediction, np.arange(1, bins) / bins))
        while len(edges):
            counts = np.bincount(np.searchsorted(edges, prediction, side="right"), minlength=len(edges) + 1)
            smallest = int(counts.argmin())
            if counts[smallest] >= _ENOUGH:
                break
            above = counts[smallest + 1] if smallest < len(edges) else math.inf
            below = counts[smallest - 1] if smallest else math.inf
            edges = np.delete(edges, smallest if above <= below else smallest - 1)
        number = np.searchsorted(edges, prediction, side="right")
        parts = [np.sort(residual[number == k]) for k in range(len(edges) + 1)]
        widths = [float(part[math.ceil((len(part) + 1) * level - 1e-9) - 1]) for part in parts]
        return cls(level, tuple(edges.tolist()), tuple(widths), tuple(map(len, parts)))

    def half_width(self, prediction: np.ndarray) -> np.ndarray:
        """Half the width at predicted values of any shape; NaN stays NaN."""
        bins = np.searchsorted(np.asarray(self.edges), prediction, side="right")
        width = np.asarray(self.widths, dtype=np.float32)[bins]
        return np.where(np.isnan(prediction), np.float32("nan"), width)

    def to_dict(self) -> dict[str, Any]:
        """Plain types."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> ConformalInterval:
        """What :meth:`to_dict` gave.

        Raises:
            ValueError: it was something else.
        """
        try:
            lists: list[Sequence[Any]] = [saved[name] for name in ("edges", "widths", "counts")]
            return cls(float(saved["level"]), *(tuple(values) for values in lists))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"ConformalInterval: {dict(saved)} is not level, edges, widths and counts; give what to_dict() gives"
            ) from error


def fewest_residuals(level: float) -> int:
    """How many residuals an interval of a level takes: with fewer, none of them is large enough."""
    return math.ceil(level / (1 - level) - 1e-9)
