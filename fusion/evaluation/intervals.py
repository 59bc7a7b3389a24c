"""How certain a score is: bootstrap intervals over blocks of ground.

Neighbouring samples are alike, so a thousand pixels of ten fields are not a thousand observations. Samples of one block
are drawn together, with replacement, and the score of each draw tells how much it would vary on other ground of the
same kind (Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13: blocks, and percentiles).
What training varies is not in it: that is the spread over seeds.

Every score of :func:`fusion.evaluation.metrics.score` follows from sums over samples, so a draw is a product of how
often each block was drawn and the sums of each block; no sample is touched again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "FEWEST",
    "Interval",
    "Intervals",
    "added_by_block",
    "bootstrap",
    "percentiles",
    "sample_sums",
    "score_intervals",
    "scores_of_sums",
    "times_drawn",
]

FEWEST = 5  # blocks: of fewer the draws are too much alike
_HELD = 1 << 22  # numbers of draws that are held at once


@dataclass(frozen=True)
class Interval:
    """A score and its interval, NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        told = f"{self.value:.3f}"
        return told if np.isnan(self.low) else f"{told} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Intervals:
    """Intervals of the scores of one set of samples.

    Attributes:
        scores: by name.
        blocks: how many there are; samples, where no blocks are known.
        known: whether blocks are known.
        draws, level: of the bootstrap.
        note: how the intervals were made, or why there are none, in a sentence.
    """

    scores: dict[str, Interval]
    blocks: int
    known: bool
    draws: int
    level: float
    note: str


def sample_sums(task: str, target: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """What each sample adds to the sums that scores are made of.

    Args:
        task, target, prediction: as :func:`fusion.evaluation.metrics.score` takes them.
        classes: K, or targets T.

    Returns:
        (N, K, 3) whether the class is there and predicted, there, predicted; or of quantities (N, T, 5): 1, target
        (about the mean of all), its square, squared and absolute error.
    """
    if task == "regression":
        t, p = (np.asarray(a, dtype=np.float64).reshape(len(a), -1) for a in (target, prediction))
        moved, error = t - t.mean(0), p - t
        return np.stack([np.ones_like(t), moved, moved**2, error**2, np.abs(error)], axis=-1)
    if task == "multiclass":
        target, prediction = (np.asarray(a)[:, None] == np.arange(classes) for a in (target, prediction))
    there, said = (np.asarray(a).astype(bool) for a in (target, prediction))  # (N, K)
    return np.stack([there & said, there, said], axis=-1).astype(np.float64)


def scores_of_sums(task: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of R sets of samples.

    Args:
        sums: (R, K, 3) or (R, T, 5), see :func:`sample_sums`.

    Returns:
        (R,) by name: of classes ``macro_f1``, ``macro_f1_all`` (0 for a class that is neither there nor predicted,
        which the first leaves out), ``weighted_f1``, ``micro_f1``, ``miou`` and, of classes that exclude each other,
        ``accuracy``; of quantities ``r2``, ``rmse`` and ``mae``. NaN where a set leaves a score undefined.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if task == "regression":
            count, total, squares, error, absolute = np.moveaxis(sums, -1, 0)  # (R, T)
            spread = squares - total**2 / count
            return {
                "r2": np.where(spread > 0, 1 - error / spread, np.nan).mean(1),
                "rmse": np.sqrt(error / count).mean(1),
                "mae": (absolute / count).mean(1),
            }
        hits, there, said = np.moveaxis(sums, -1, 0)  # (R, K)
        seen, every = (there + said) > 0, there.sum(1)
        f1 = np.where(seen, 2 * hits / (there + said), 0.0)
        iou = np.where(seen, hits / (there + said - hits), 0.0)
        scores = {
            "macro_f1": f1.sum(1) / seen.sum(1),
            "macro_f1_all": f1.mean(1),
            "weighted_f1": (f1 * there).sum(1) / every,
            "micro_f1": 2 * hits.sum(1) / (every + said.sum(1)),
            "miou": iou.sum(1) / seen.sum(1),
        }
        return scores | ({"accuracy": hits.sum(1) / every} if task == "multiclass" else {})


def score_intervals(
    task: str,
    sums: np.ndarray | Sequence[np.ndarray],
    blocks: Sequence[object] | np.ndarray | None = None,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    samples: str = "tiles",
) -> Intervals:
    """Percentile intervals of all scores of :func:`scores_of_sums`.

    Args:
        sums: (N, K, 3) or (N, T, 5) of N samples, see :func:`sample_sums`. Or several such arrays, of several
            predictions of the same samples: the score is their mean, and a draw takes the same samples of all.
        blocks: (N,) which block each sample belongs to. None: samples are drawn one by one.
        draws: of the bootstrap.
        level: of the interval.
        seed: the same seed gives the same bits.
        samples: what the note calls them.

    Raises:
        ValueError: no sample, blocks or sums of another number of samples, no draw, a level that is no share.
    """
    several = [np.asarray(one, dtype=np.float64) for one in ([sums] if isinstance(sums, np.ndarray) else sums)]
    if len({one.shape for one in several}) != 1:
        raise ValueError(f"score_intervals: sums of the same samples wanted, not of {[o.shape for o in several]}")
    number, known = _numbered(blocks, len(several[0]), draws, level)
    count = int(number.max()) + 1
    values = {name: float(v[0]) for name, v in _mean(task, [one.sum(0)[None] for one in several]).items()}
    note = _note(count, known, draws, level, samples)
    if count < FEWEST:
        none = {name: Interval(value, float("nan"), float("nan")) for name, value in values.items()}
        return Intervals(none, count, known, draws, level, note)
    together = [added_by_block(one, number, count) for one in several]
    parts = [
        _mean(task, [(times @ one.reshape(count, -1)).reshape(-1, *one.shape[1:]) for one in together])
        for times in times_drawn(count, draws, seed)
    ]
    found = {name: np.concatenate([part[name] for part in parts]) for name in values}
    intervals = {name: percentiles(value, found[name], level) for name, value in values.items()}
    return Intervals(intervals, count, known, draws, level, note)


def bootstrap(
    statistic: Callable[[np.ndarray], float],
    samples: int,
    blocks: Sequence[object] | np.ndarray | None = None,
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of any number that samples have; it is computed anew for each draw.

    Args:
        statistic: of the numbers (n,) of some samples, with repeats: ``lambda rows: score(target[rows], guess[rows])``.
            NaN for a draw that has none.
        samples: how many there are.
        blocks, draws, level, seed: as in :func:`score_intervals`, which draws the same samples by the same seed.

    Raises:
        ValueError: as :func:`score_intervals`.
    """
    number, _ = _numbered(blocks, samples, draws, level)
    count, value = int(number.max()) + 1, float(statistic(np.arange(samples)))
    if count < FEWEST:
        return Interval(value, float("nan"), float("nan"))
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number))[:-1])
    found = [
        float(statistic(np.concatenate([members[b] for b in np.repeat(np.arange(count), drawn)])))
        for times in times_drawn(count, draws, seed)
        for drawn in times.astype(int)
    ]
    return percentiles(value, np.asarray(found), level)


def _numbered(
    blocks: Sequence[object] | np.ndarray | None, samples: int, draws: int, level: float
) -> tuple[np.ndarray, bool]:
    """(N,) number of the block of each sample, and whether blocks are known."""
    if samples < 1 or draws < 1 or not 0 < level < 1:
        raise ValueError(
            f"bootstrap: {samples} samples, {draws} draws, level {level}; give one or more of each of the first two, "
            "and a level between 0 and 1, such as 0.95"
        )
    if blocks is None:
        return np.arange(samples), False
    if len(blocks) != samples:
        raise ValueError(f"bootstrap: blocks of {len(blocks)} samples for {samples}; give one a sample")
    return np.unique(np.asarray(blocks), return_inverse=True)[1].ravel(), True


def added_by_block(sums: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """(count, ...) sums (N, ...) of samples added up by the number (N,) of their block."""
    if len(sums) == count:  # every sample is a block of its own
        return sums[np.argsort(number)]
    total = np.zeros((count, *sums.shape[1:]))
    np.add.at(total, number, sums)
    return total


def times_drawn(count: int, draws: int, seed: int | Sequence[int]) -> Iterator[np.ndarray]:
    """How often each block was drawn, (r, blocks), in parts of all draws."""
    rng = np.random.default_rng(seed)
    step = max(1, _HELD // count)
    for first in range(0, draws, step):
        rows = min(step, draws - first)
        flat = rng.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(flat.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _mean(task: str, sums: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Scores (R,), the mean over several predictions."""
    found = [scores_of_sums(task, one) for one in sums]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def percentiles(value: float, found: np.ndarray, level: float) -> Interval:
    """The interval of a score between the percentiles of its draws; NaN where most draws leave it undefined."""
    defined = found[~np.isnan(found)]
    if 2 * len(defined) < len(found):  # a rest that happens to have a score stands for nothing
        return Interval(value, float("nan"), float("nan"))
    low, high = np.percentile(defined, [50 - 50 * level, 50 + 50 * level])
    return Interval(value, float(low), float(high))


def _note(count: int, known: bool, draws: int, level: float, samples: str) -> str:
    what = "blocks of ground" if known else samples
    if count < FEWEST:
        return f"No interval: {count} {what} are too few to tell how scores vary; {FEWEST} or more are wanted."
    told = f"In parentheses the {100 * level:g} % interval of {draws} bootstrap draws"
    if known:
        return f"{told} of the {count} blocks of ground."
    return (
        f"{told} of the {count} {samples}, one by one: no blocks of ground are known, and where neighbours are alike "
        "the interval is too narrow."
    )
