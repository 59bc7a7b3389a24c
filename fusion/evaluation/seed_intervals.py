"""How certain a score is when seeds and ground both vary.

A training with another seed, tested on other ground of the same kind, gives another score. Both are drawn at once:
blocks of ground with replacement, the same ones for every row and seed, and seeds with replacement (Efron & Tibshirani
1993, chapter 8, two samples). Of a difference between two rows, both are scored on the same draws, so what
is common to them cancels.

K seeds drawn from K with replacement vary too little, by (K - 1) / K of the variance; the distance of a draw's mean
from that of all seeds is therefore multiplied by sqrt(K / (K - 1)). Two or three seeds still tell little of the tails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .intervals import FEWEST, Interval, percentiles, scores_of_sums, times_drawn

__all__ = ["SeedDraws", "Sums", "difference", "draw_seeds", "interval"]


@dataclass(frozen=True)
class Sums:
    """What a row of scores was made of, in one training.

    Attributes:
        sums: (draws of labels, blocks, K, 3) or (draws of labels, blocks, T, 5), see
            :func:`fusion.evaluation.intervals.sample_sums`, added up over the samples of a block.
        blocks: (blocks,) their names.
    """

    sums: np.ndarray
    blocks: np.ndarray


@dataclass(frozen=True)
class SeedDraws:
    """The scores of one row: of each repetition and seed, and what became of them in each draw.

    Attributes:
        values: by metric, (repetitions, seeds), as measured.
        draws: by metric, (draws,); empty where blocks are too few to draw from.
    """

    values: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]


def draw_seeds(
    task: str, rows: Mapping[str, Sequence[Sequence[Sums]]], *, draws: int = 1000, seed: int = 0
) -> dict[str, SeedDraws]:
    """Scores of all rows in the same draws of blocks and seeds.

    Args:
        rows: of each row by repetition and seed. Repetitions are other test ground, and the score is their mean; seeds
            of a repetition are scored on the same ground, or each on its own (another landscape), which is seen from
            names and truth.
        draws, seed: of the bootstrap.

    Raises:
        ValueError: no row, repetition or seed.
    """
    first = next(iter(rows.values()), ())
    if not first or not first[0]:
        raise ValueError("draw_seeds: no row, repetition or seed")
    parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in rows}
    values: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in rows}
    few = False
    for number in range(len(first)):
        own = {name: row[number] for name, row in rows.items()}
        for name, sums in own.items():
            total = [_mean_scores(task, one.sums.sum(1, keepdims=True).swapaxes(0, 1)) for one in sums]
            values[name].append({metric: np.concatenate([t[metric] for t in total]) for metric in total[0]})
        few = few or min(len(one.blocks) for sums in own.values() for one in sums) < FEWEST
        if few:
            continue
        alone = _on_ground(task, own, draws, (seed, number) if number else seed)  # (seeds, draws) by row and metric
        seeds = len(next(iter(own.values())))
        chosen = np.random.default_rng((seed, 1, number)).integers(seeds, size=(draws, seeds))
        for name, found in alone.items():
            parts[name].append({metric: _over_seeds(scores, chosen) for metric, scores in found.items()})
    return {
        name: SeedDraws(
            {metric: np.stack([part[metric] for part in values[name]]) for metric in values[name][0]},
            {} if few else {m: np.mean([part[m] for part in parts[name]], axis=0) for m in parts[name][0]},
        )
        for name in rows
    }


def interval(row: SeedDraws, metric: str, level: float = 0.95) -> Interval:
    """The mean over repetitions and seeds, and the percentile interval of the draws, NaN where there is none."""
    value = float(row.values[metric].mean())
    if metric not in row.draws:
        return Interval(value, float("nan"), float("nan"))
    return percentiles(value, row.draws[metric], level)


def difference(row: SeedDraws, control: SeedDraws, metric: str, level: float = 0.95) -> Interval:
    """How much better (of errors: larger) a row is than a control, with the interval over draws that both share."""
    value = float(row.values[metric].mean() - control.values[metric].mean())
    if metric not in row.draws or metric not in control.draws:
        return Interval(value, float("nan"), float("nan"))
    return percentiles(value, row.draws[metric] - control.draws[metric], level)


def _mean_scores(task: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    """Scores (R,) of sums (R, draws of labels, K, ...), the mean over draws of labels."""
    found = [scores_of_sums(task, sums[:, draw]) for draw in range(sums.shape[1])]
    return {name: np.mean([one[name] for one in found], axis=0) for name in found[0]}


def _on_ground(
    task: str, rows: Mapping[str, Sequence[Sums]], draws: int, seed: int | tuple[int, ...]
) -> dict[str, dict[str, np.ndarray]]:
    """(seeds, draws) by row and metric: every seed scored on drawn blocks, the same ones for all rows."""
    first = next(iter(rows.values()))
    shared = all(_same_ground(first[0], other) for other in first)
    found: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in rows}
    for number in range(len(first)):
        own = seed if shared or not number else (seed, number) if isinstance(seed, int) else (*seed, number)
        pieces: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in rows}
        for times in times_drawn(len(first[number].blocks), draws, own):  # (r, blocks)
            for name, sums in rows.items():
                drawn = np.tensordot(times, sums[number].sums.astype(np.float64), (1, 1))  # (r, labels, K, 3 or 5)
                pieces[name].append(_mean_scores(task, drawn))
        for name, many in pieces.items():
            found[name].append({metric: np.concatenate([one[metric] for one in many]) for metric in many[0]})
    return {name: {m: np.stack([one[m] for one in seeds]) for m in seeds[0]} for name, seeds in found.items()}


def _same_ground(one: Sums, other: Sums) -> bool:
    """Whether two seeds were tested on the same tiles: names of blocks and what is true there are the same."""
    if one.blocks.shape != other.blocks.shape or (one.blocks != other.blocks).any():
        return False
    a, b = (np.asarray(s.sums[0, ..., 1], dtype=np.float64) for s in (one, other))  # there, or the sum of the target
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=1e-6, atol=1e-6))


def _over_seeds(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(draws,) the mean over drawn seeds of (seeds, draws), by ``chosen`` (draws, seeds)."""
    seeds = len(scores)
    mean: np.ndarray = scores.mean(0)
    if seeds == 1:
        return mean
    drawn = np.take_along_axis(scores.T, chosen, axis=1).mean(1)
    return mean + np.sqrt(seeds / (seeds - 1)) * (drawn - mean)
