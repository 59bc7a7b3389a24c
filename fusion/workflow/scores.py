"""From rows of probes to named scores: for ``metrics.json``, for the table, for the one line on the screen."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..data import TileDataset
from ..data.transfer import squares
from ..evaluation import Row, Spread, Table
from ..evaluation.chance import Chance, chance_scores
from ..evaluation.coverage import Coverage
from ..evaluation.finetune import score_module
from ..evaluation.intervals import FEWEST, Interval, Intervals, sample_sums, score_intervals
from ..training.systems import config_of
from .state import State

__all__ = [
    "CHANCE",
    "MAIN",
    "SHOWN",
    "Named",
    "add_macro_f1_of_all",
    "as_metrics",
    "by_modality",
    "by_name",
    "column",
    "conditions",
    "coverage",
    "interval_blocks",
    "intervals",
    "main_metric",
    "of_module",
    "pooled",
    "summary",
    "sums_of",
    "table",
]

MAIN = ("r2", "miou", "macro_f1")  # what stands for all scores of a row, where there is no one before it
CHANCE = "chance level"  # the last row of a table of scores
Named = dict[str, list[Row]]  # one list of draws for each name of a row
_POOLED = {
    "mean": "the mean encoding of its patches",
    "summary": "its summary",
    "both": "its summary and the mean encoding of its patches",
    "tokens": "the mean token of each modality, before they are combined",
    "seasons": "the mean token of each modality in each quarter of the year",
    "months": "the mean token of each modality in each twelfth of the year",
}
_HELD = ("interval_coverage", "interval_width")  # neither the more the better nor the less
SHOWN = {
    "miou": "mean IoU",
    "macro_f1": "macro F1",
    "macro_f1_all": "macro F1 (all classes)",
    "weighted_f1": "weighted F1",
    "micro_f1": "micro F1",
    "accuracy": "accuracy",
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "interval_coverage": "coverage of the interval",
    "interval_width": "its mean width",
}


def by_name(rows: Sequence[Row], first: str, names: Mapping[str, str]) -> Named:
    """Rows by the origin of their features, with ``_<probe>`` unless the probe is ``first``."""
    named: Named = {}
    for row in rows:
        name = row.features if row.method == first else f"{row.features}_{row.method}"
        named.setdefault(names.get(name, name), []).append(row)
    return named


def by_modality(rows: Sequence[Row], first: str, prefix: bool = False) -> Named:
    """Rows by modality, ``all`` for the largest set of them; ``prefix`` puts the features before it.

    With several fractions of the labels, their percentage follows: ``pretrained_10``, ``pretrained_100``.
    """
    everything = max((row.modalities for row in rows), key=len)
    several = len({row.fraction for row in rows}) > 1
    named: Named = {}
    for row in rows:
        which = "all" if row.modalities == everything else "+".join(row.modalities)
        if prefix:
            which = row.features if which == "all" else f"{row.features}_{which}"
        which += "" if row.method == first else f"_{row.method}"
        which += f"_{100 * row.fraction:g}" if several else ""
        named.setdefault(which, []).append(row)
    return named


def of_module(
    module: nn.Module, test: TileDataset, seed: int, like: Row | None = None, *, together: bool = True
) -> list[Row]:
    """Scores of a fine-tuned module with all its modalities, then with each alone (if there are several).

    Args:
        like: lends origin, fraction of the labels and seed of the run that the module comes from.
        together: False leaves out the score with all of them, where it is known.
    """
    known = {m.name for m in config_of(module.get_submodule("model")).modalities}
    known &= set(getattr(module, "modalities", None) or known)  # those that a probe was made with
    names = [m.name for m in test.modalities if m.name in known]
    rows = []
    for chosen in [*([names] if together else []), *([name] for name in names if len(names) > 1)]:
        result = score_module(module, test.with_modalities(chosen), like.result.labelled if like else 0)
        origin, fraction = (like.features, like.fraction) if like else ("finetuned", 1.0)
        rows.append(Row(origin, tuple(chosen), fraction, seed, result))
    return rows


def add_macro_f1_of_all(rows: Sequence[Row]) -> None:
    """Adds ``macro_f1_all``: the mean over *all* classes, 0 for one that is neither there nor predicted, which is how
    OmniSat's code averages; ``macro_f1`` leaves such a class out."""
    for row in rows:
        f1 = [numbers["f1"] for numbers in row.result.per_class.values() if "f1" in numbers]
        if f1:
            row.result.scores["macro_f1_all"] = float(np.nan_to_num(f1).mean())


def interval_blocks(tiles: TileDataset) -> np.ndarray | None:
    """(N,) block of ground of each tile: the data's own; where these are fewer than a bootstrap can draw from, squares
    into which the scenes are cut. They tell of other ground in these scenes, not of other scenes."""
    blocks = tiles.blocks()
    if blocks is not None and len(np.unique(blocks)) >= FEWEST:
        return blocks
    cut = squares(tiles)
    return blocks if cut is None or len(np.unique(cut)) < FEWEST else cut


def sums_of(row: Row, task: str, classes: int) -> np.ndarray:
    """(N, K, 3) or (N, T, 5) of the N test tiles, see :func:`fusion.evaluation.intervals.sample_sums`."""
    result = row.result
    return sample_sums(task, result.target, result.prediction, classes) if result.sums is None else result.sums


def intervals(named: Named, tiles: TileDataset, seed: int) -> dict[str, Intervals]:
    """Of each row the bootstrap intervals of its scores (the mean over its draws) by blocks of the tiles."""
    task, classes, blocks = str(tiles.task), len(tiles.classes), interval_blocks(tiles)
    found = {
        name: score_intervals(task, [sums_of(row, task, classes) for row in rows], blocks, seed=seed)
        for name, rows in named.items()
    }
    for name, rows in named.items():
        held = [row.result.coverage for row in rows if row.result.coverage is not None]
        if len(held) == len(rows):
            found[name].scores.update(Coverage.intervals(held, blocks, level=found[name].level, seed=seed))
    return found


def coverage(named: Named, found: Mapping[str, Intervals]) -> str:
    """How often the interval of a quantity holds, of the first row, as a sentence; empty where there is none."""
    name, rows = next(iter(named.items()))
    of = rows[0].result.coverage
    if of is None:
        return ""
    share, width = (found[name].scores[key] for key in _HELD)
    ends = "" if np.isnan(share.low) else f" ({share.low:.2f} to {share.high:.2f})"
    return (
        f"Interval {100 * of.level:g} % of {name}: coverage {share.value:.2f}{ends}, mean width {width.value:.4g} in "
        "the unit of the quantity."
    )


def as_metrics(
    named: Named, found: Mapping[str, Intervals] | None = None, classes: Sequence[str] = ()
) -> dict[str, Any]:
    """Nested and plain: ``{name: {metric: mean, metric_sd: ..., draws: {metric: [...]}}}``.

    With ``found``, of :func:`intervals`, each row has ``intervals: {metric: [low, high]}`` (None where there is none)
    and of classes ``confusion``: their names, what rows and columns are, what is ``counted`` (tiles or pixels), and
    ``counts``, or with several draws a matrix of each as ``draws``.
    """
    table: dict[str, Any] = {}
    for name, rows in named.items():
        entry: dict[str, Any] = {}
        values = {metric: [row.result.scores[metric] for row in rows] for metric in rows[0].result.scores}
        for metric, draws in values.items():
            spread = Spread.of(draws)
            entry[metric] = spread.mean
            if spread.runs > 1:
                entry[f"{metric}_sd"] = spread.sd
        if found is not None:
            entry["intervals"] = {m: _ends(found[name].scores[m]) for m in values if m in found[name].scores}
        entry |= _chosen(rows)
        table[name] = entry | ({"draws": values} if len(rows) > 1 else {}) | _confusion(rows, classes)
    return table


def _chosen(rows: Sequence[Row]) -> dict[str, str]:
    """The pools and the simple methods that the draws of a row chose."""
    found = {key: [r.result.setting[key] for r in rows if key in r.result.setting] for key in ("pool", "control")}
    return {key: ", ".join(dict.fromkeys(values)) for key, values in found.items() if values}


def _ends(interval: Interval) -> list[float] | None:
    return None if np.isnan(interval.low) else [interval.low, interval.high]


def _confusion(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    counts = [row.result.confusion.tolist() for row in rows if row.result.confusion is not None]
    if len(counts) != len(rows) or not classes:
        return {}
    counted = "tiles" if rows[0].result.sums is None else "pixels"
    told = {"classes": list(classes), "rows": "reference", "columns": "prediction", "counted": counted}
    return {"confusion": told | ({"counts": counts[0]} if len(counts) == 1 else {"draws": counts})}


@dataclass(frozen=True)
class _Certain:
    """A mean with what is printed of it: the spread over draws of labels, and the interval of the test tiles."""

    mean: float
    spread: Spread
    interval: Interval | None

    def __str__(self) -> str:
        if self.interval is None or np.isnan(self.interval.low):
            return str(self.spread)
        return f"{self.spread} ({self.interval.low:.3f} to {self.interval.high:.3f})"


def _certain(name: str, rows: Sequence[Row], metric: str, found: Mapping[str, Intervals] | None) -> _Certain:
    spread = Spread.of([row.result.scores[metric] for row in rows])
    interval = None if found is None or metric != main_metric(rows) else found[name].scores.get(metric)
    return _Certain(spread.mean, spread, interval)


def table(named: Named, conditions: str, found: Mapping[str, Intervals] | None = None) -> Table:
    """The scores as mean and standard deviation over draws, best in bold, the main one with its interval; in the last
    row what who knows nothing would score."""
    scores = next(iter(named.values()))[0].result.scores
    # Of classes that exclude each other, micro F1 is the accuracy.
    metrics = [metric for metric in scores if not (metric == "micro_f1" and "accuracy" in scores)]
    heads = [SHOWN.get(metric, metric) for metric in metrics]
    cells = [
        [name, *(_certain(name, rows, m, found) if m in rows[0].result.scores else "–" for m in metrics)]
        for name, rows in named.items()
    ]
    lower = [head for metric, head in zip(metrics, heads, strict=True) if metric in ("rmse", "mae")]
    higher = [head for metric, head in zip(metrics, heads, strict=True) if head not in lower and metric not in _HELD]
    shown: list[list[Any]] = [*cells]
    chance = _chance(next(iter(named.values()))[0])
    if chance is not None:
        shown.append([CHANCE, *(chance.scores.get(metric, "–") for metric in metrics)])
        conditions = f"{conditions} Chance level: {chance.told}.".strip()
    return Table(["features", *heads], shown, conditions, best=higher, lowest=lower)


def _chance(row: Row) -> Chance | None:
    result = row.result
    if result.confusion is None and "r2" not in result.scores:
        return None
    targets = 1 if result.target.ndim == 1 else result.target.shape[1]
    return chance_scores(result.confusion, list(result.per_class), result.scores, targets)


def summary(named: Named, metric: str, found: Mapping[str, Intervals] | None = None) -> str:
    """One line: the rows and their score."""
    told = (f"{name} {_certain(name, rows, metric, found)}" for name, rows in named.items())
    return f"{SHOWN.get(metric, metric)}: " + ", ".join(told)


def main_metric(rows: Sequence[Row]) -> str:
    """The metric that stands for all: macro F1 of classes, mean IoU of maps, R2 of quantities."""
    return next(metric for metric in MAIN if metric in rows[0].result.scores)


def conditions(
    state: State,
    rows: Sequence[Row],
    draws: int,
    train: str,
    test: str,
    found: Mapping[str, Intervals] | None = None,
    more: Sequence[str] = (),
) -> str:
    """What a reader must know of these scores, and of the intervals ``found`` of them; ``more`` sentences."""
    labelled, unseen = state.split(train), state.split(test)
    counts = {row.fraction: row.result.labelled for row in rows}  # tiles by fraction
    told = " or ".join(f"{count} ({fraction:.0%})" for fraction, count in sorted(counts.items()))
    several = draws > 1 and min(counts) < 1
    drawn = f"drawn {draws} times (± is the standard deviation over draws)" if several else "one draw"
    notes = list(dict.fromkeys(note for row in rows for note in row.result.notes))
    sentences = [
        f"{told} labelled tiles of the {len(labelled)} of split {train!r}, stratified, {drawn}, scored on the "
        f"{'pixels of the ' if unseen.dense else ''}{len(unseen)} tiles of split {test!r}; seed {state.seed}.",
        *(f"Note: {note}." for note in notes),
        *more,
        *dict.fromkeys(one.note for one in (found or {}).values()),
    ]
    return " ".join(sentences)


def pooled(pool: str, rows: Sequence[Row]) -> str:
    """What stands for a tile, as a sentence; with ``"auto"`` what each encoder's draws chose."""
    if pool == "auto":
        chosen: dict[str, Counter[str]] = {}
        for row in rows:
            if "pool" in row.result.setting:
                one = row.features if len(set(r.modalities for r in rows)) == 1 else "+".join(row.modalities)
                chosen.setdefault(one, Counter())[row.result.setting["pool"]] += 1
        told = (
            f"{name} {', '.join(p if len(n) == 1 else f'{p} ({n[p]} of {n.total()})' for p in n)}"
            for name, n in chosen.items()
        )
        return f"What stands for a tile was chosen on held-out blocks of the labelled tiles: {'; '.join(told)}. "
    return f"An encoder's features of a tile are {_POOLED[pool]}. "


def column(log: Path, name: str) -> list[float]:
    """One column of a run's ``metrics.csv``."""
    with open(log, newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
