"""Accuracy and areas of a map from a sample of reference labels, by the mapped area of each class.

A confusion matrix of samples alone says little of a map: rare classes are sampled more densely than they occur. The
stratified estimator weighs each mapped class by its area and gives standard errors; the strata are the classes of the
map. After Olofsson et al. 2014, "Good practices for estimating area and assessing accuracy of land change", Remote
Sensing of Environment 148, 42-57, equations 1 to 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .report import Table

__all__ = ["AreaAccuracy", "Estimate", "area_accuracy"]


@dataclass(frozen=True)
class Estimate:
    """One estimated number.

    Attributes:
        value: NaN where it is undefined.
        standard_error: NaN where it is undefined.
        half_width: of the symmetric interval, ``value ± half_width``, as Olofsson et al. print it.
        low, high: the interval, cut where no share or area can be (below 0, above 1 or the whole map).
    """

    value: float
    standard_error: float
    half_width: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        """For JSON, which knows no NaN: None instead."""
        return {name: None if np.isnan(number) else number for name, number in vars(self).items()}


@dataclass(frozen=True)
class AreaAccuracy:
    """Area-adjusted accuracy of a map of K classes and the areas of the classes on the ground.

    Attributes:
        classes: names, (K,).
        overall: share of the mapped area that is mapped right.
        users: of each mapped class, the share of its area that is right (1 - commission error).
        producers: of each class on the ground, the share of its area that is mapped as such (1 - omission error).
        areas: of each class on the ground, in the unit of ``mapped``.
        mapped: area that the map gives each class, (K,).
        proportions: (K, K) estimated shares of the area by map class (rows) and reference class (columns).
        level: of the intervals.
        notes: what is undefined, and why.
    """

    classes: tuple[str, ...]
    overall: Estimate
    users: tuple[Estimate, ...]
    producers: tuple[Estimate, ...]
    areas: tuple[Estimate, ...]
    mapped: np.ndarray
    proportions: np.ndarray
    level: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Nested and plain, for JSON; what is undefined is None."""
        return {
            "level": self.level,
            "overall": self.overall.to_dict(),
            "classes": {
                name: {
                    "mapped_area": float(self.mapped[k]),
                    "area": self.areas[k].to_dict(),
                    "users_accuracy": self.users[k].to_dict(),
                    "producers_accuracy": self.producers[k].to_dict(),
                }
                for k, name in enumerate(self.classes)
            },
            "notes": list(self.notes),
        }

    def table(self, unit: str = "", scale: float = 1.0) -> Table:
        """The table of a paper: a row a class, ``±`` is half the width of the interval.

        Args:
            unit: of the areas as printed, e.g. ``"ha"``.
            scale: that unit for one of ``mapped``: 0.09 from pixels of 30 m to hectares.
        """
        told = f" ({unit})" if unit else ""
        rows = [
            [
                name,
                f"{self.mapped[k] * scale:,.0f}",
                _printed(self.areas[k], ",.0f", scale),
                _printed(self.users[k], ".2f"),
                _printed(self.producers[k], ".2f"),
            ]
            for k, name in enumerate(self.classes)
        ]
        caption = (
            f"Overall accuracy {_printed(self.overall, '.3f')}. Area-adjusted after Olofsson et al. 2014 with the "
            f"mapped classes as strata; ± is half the width of the {100 * self.level:g} % interval."
        )
        columns = ["class", f"mapped area{told}", f"area{told}", "user's accuracy", "producer's accuracy"]
        return Table(columns, rows, " ".join([caption, *self.notes]))


def area_accuracy(
    counts: Sequence[Sequence[int]] | np.ndarray,
    mapped: Sequence[float] | np.ndarray,
    classes: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> AreaAccuracy:
    """Accuracy of a map and areas of its classes, from samples drawn at random within each mapped class.

    With W the share of the area that is mapped as a class, n the samples of its row and p = W n_ij / n_i the estimated
    share of each cell: overall accuracy is the sum of p_ii, user's accuracy p_ii / p_i., producer's p_jj / p_.j and the
    area of class j p_.j times the whole. The variances are those of Olofsson et al. 2014, equations 5, 6, 7 and 10;
    intervals are those of the normal distribution.

    Args:
        counts: (K, K) samples; **rows are what the map says, columns the reference**: the transpose of what
            :func:`fusion.evaluation.dense.confusion_scores` takes.
        mapped: (K,) area that the map gives each class, in pixels, m2 or any other unit; areas come in that unit. All
            of the map, not the area of the samples.
        classes: names, numbers by default.
        level: of the intervals.

    Returns:
        The estimates. A mapped class with one sample has no standard error, and neither has what depends on it; one
        without a sample leaves unknown what lies there, so that only the user's accuracies of other classes are
        defined. Such numbers are NaN, and ``notes`` says so.

    Raises:
        ValueError: counts that are no square of whole numbers, areas that do not fit them, samples of a class that the
            map does not have, or no sample at all.
    """
    samples, areas, names = _checked(counts, mapped, classes, level)
    total = areas.sum()
    weight, drawn = areas / total, samples.sum(1)  # (K,), (K,)
    here = weight > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = samples / drawn[:, None]  # (K, K) of the samples of a row; NaN without samples
        # Of the mean of a share over the samples of its row; 0 / 0 of a single sample is NaN.
        variance = np.where(drawn[:, None] > 1, shares * (1 - shares) / (drawn[:, None] - 1), np.nan)
        # A class that the map does not have has no samples and no area: it adds nothing.
        proportions = np.where(here[:, None], weight[:, None] * shares, 0.0)
        spread = np.where(here[:, None], weight[:, None] ** 2 * variance, 0.0)  # (K, K) variances of the proportions
        ground = proportions.sum(0)  # (K,)
        right, of_right = proportions.diagonal(), spread.diagonal()
        users, users_variance = shares.diagonal(), variance.diagonal()
        producers = right / ground
        others = spread.sum(0) - of_right
        producers_variance = ((1 - producers) ** 2 * of_right + producers**2 * others) / ground**2
    from scipy.stats import norm

    z = float(norm.ppf(0.5 + level / 2))
    return AreaAccuracy(
        names,
        _estimate(right.sum(), of_right.sum(), z, 1.0),
        tuple(_estimate(*pair, z, 1.0) for pair in zip(users, users_variance, strict=True)),
        tuple(_estimate(*pair, z, 1.0) for pair in zip(producers, producers_variance, strict=True)),
        tuple(_estimate(p * total, v * total**2, z, total) for p, v in zip(ground, spread.sum(0), strict=True)),
        areas,
        proportions,
        level,
        _notes(names, samples, here),
    )


def _checked(
    counts: Sequence[Sequence[int]] | np.ndarray,
    mapped: Sequence[float] | np.ndarray,
    classes: Sequence[str] | None,
    level: float,
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    samples, areas = np.asarray(counts, dtype=np.float64), np.asarray(mapped, dtype=np.float64)
    if samples.ndim != 2 or samples.shape[0] != samples.shape[1] or not samples.size:
        raise ValueError(
            f"area_accuracy: counts of shape {samples.shape} are no square; give map classes (rows) by the same "
            "classes of the reference (columns)"
        )
    wrong = samples[~((samples >= 0) & (samples == np.floor(samples)) & np.isfinite(samples))]
    if wrong.size:
        raise ValueError(f"area_accuracy: counts are numbers of samples, whole and not negative, not {wrong[0]:g}")
    names = tuple(map(str, range(len(samples)))) if classes is None else tuple(classes)
    if areas.shape != (len(samples),) or len(names) != len(samples):
        raise ValueError(
            f"area_accuracy: {len(samples)} classes counted, mapped areas of shape {areas.shape} and {len(names)} names"
        )
    if not (np.isfinite(areas) & (areas >= 0)).all() or not areas.sum() > 0:
        raise ValueError(f"area_accuracy: mapped areas are 0 or more and one of them is more, not {areas.tolist()}")
    if not samples.any():
        raise ValueError("area_accuracy: no sample was counted; label some of each mapped class")
    if not 0 < level < 1:
        raise ValueError(f"area_accuracy: level {level} is no share between 0 and 1, such as 0.95")
    unmapped = [name for name, area, row in zip(names, areas, samples, strict=True) if area == 0 and row.any()]
    if unmapped:
        raise ValueError(
            f"area_accuracy: samples were mapped as {', '.join(unmapped)}, of which the map has no area; rows of the "
            "counts are the map, columns the reference"
        )
    return samples, areas, names


def _estimate(value: float, variance: float, z: float, most: float) -> Estimate:
    value, error = float(value), float(np.sqrt(variance))
    half = z * error
    return Estimate(value, error, half, float(np.maximum(value - half, 0.0)), float(np.minimum(value + half, most)))


def _notes(names: Sequence[str], samples: np.ndarray, here: np.ndarray) -> tuple[str, ...]:
    drawn, found = samples.sum(1), samples.sum(0)

    def named(which: np.ndarray) -> str:
        return ", ".join(name for name, chosen in zip(names, which, strict=True) if chosen)

    sentences = {
        "Mapped as {} without a sample: what lies there is unknown, and so are overall accuracy, producer's accuracies "
        "and areas; label samples there or merge the class with another.": here & (drawn == 0),
        "One sample only of what is mapped as {}: no standard error there, nor of what depends on it; label more.": here
        & (drawn == 1),
        "The map has no area of {}: no user's accuracy.": ~here,
        "No sample is {} in the reference: its area is estimated as 0 and it has no producer's accuracy.": found == 0,
    }
    return tuple(text.format(named(which)) for text, which in sentences.items() if which.any())


def _printed(estimate: Estimate, form: str, scale: float = 1.0) -> str:
    if np.isnan(estimate.value):
        return "–"
    value = format(estimate.value * scale, form)
    return value if np.isnan(estimate.half_width) else f"{value} ± {format(estimate.half_width * scale, form)}"
