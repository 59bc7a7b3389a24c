"""The scores of several runs as one: means over seeds and repetitions, how they vary, and how far they are above their
controls."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..evaluation.intervals import FEWEST, Interval
from ..evaluation.metrics import Spread
from ..evaluation.seed_intervals import SeedDraws, difference, draw_seeds, interval
from .kept import Kept, KeptRow
from .scores import MAIN, SHOWN

__all__ = ["ONE_SEED", "Run", "add_intervals", "combined", "derived", "difference_in_words", "differences"]

ONE_SEED = "one seed of pretraining: nothing is known of how scores vary with it"
_SUFFIXES = ("_sd", "_spread", "_low", "_high")
_OVER = "_over_"
_CONTROLS = ("raw", "random", "scratch")  # and what begins with them and an underscore
_CONSTANT = ("seed", "parameters", "epochs", "seconds")
Runs = Mapping[str, Sequence["Run"]]


@dataclass(frozen=True)
class Run:
    """What one run left: its metrics, and by group what they were made of."""

    metrics: Mapping[str, Any]
    kept: Mapping[str, Kept]


def combined(runs: Runs, seed: int) -> dict[str, Any]:
    """Metrics of several runs as one, nested as those of each.

    Every number that all runs have becomes its mean, with ``<name>_sd`` and ``<name>_spread`` (largest minus
    smallest) over seeds (of one seed: over repetitions). Scores whose sums were kept have ``<name>_low`` and
    ``<name>_high``, see :func:`add_intervals`. All else is that of the first run.

    Args:
        runs: by repetition, one for each seed.
        seed: of the bootstrap.
    """
    grid = [[run.metrics for run in seeds] for seeds in runs.values()]
    metrics = _merged(grid)
    add_intervals(metrics, runs, seed)
    return metrics


def add_intervals(metrics: dict[str, Any], runs: Runs, seed: int) -> None:
    """Adds to the rows of ``metrics`` the 95 % interval of each score over ground (and seeds, where there are several)
    as ``<metric>_low`` and ``<metric>_high``, and of each row but controls the difference to every control of the same
    modalities and labels as ``<metric>_over_<control>``, with its own ``_low`` and ``_high``; None where there is no
    interval. Of several runs the group's conditions say what was drawn."""
    every = [run for seeds in runs.values() for run in seeds]
    for key, group in every[0].kept.items():
        scores = _group(metrics, key)
        if scores is None or any(key not in run.kept for run in every):
            continue
        rows = {name: row for name, row in group.rows.items() if all(name in run.kept[key].rows for run in every)}
        found = draw_seeds(
            group.task,
            {name: [[run.kept[key].rows[name].sums for run in seeds] for seeds in runs.values()] for name in rows},
            seed=seed,
        )
        for name in rows:
            entry = scores.get(name)
            if not isinstance(entry, dict):
                continue
            scored = [metric for metric in found[name].values if metric in entry]
            for metric in scored:
                low, high = _ends(interval(found[name], metric))
                entry |= {f"{metric}_low": low, f"{metric}_high": high}
            if len(every) > 1:
                entry["intervals"] = {
                    m: None if entry[f"{m}_low"] is None else [entry[f"{m}_low"], entry[f"{m}_high"]] for m in scored
                }
            if not _is_control(name):
                for control, other in _controls(rows, name):
                    _add_difference(entry, found[name], found[other], control, scored)
        if len(every) > 1 and "conditions" in scores:
            scores["conditions"] = f"{_told(runs, key)} Of the first run: {scores['conditions']}"


def _group(metrics: Mapping[str, Any], key: str) -> dict[str, Any] | None:
    """The group ``a.b`` is ``b`` in ``a``."""
    found: Any = metrics
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else None


def differences(group: Mapping[str, Any]) -> list[tuple[str, str, str, Interval]]:
    """Row, control, metric and difference of the main score of a group of ``metrics.json``, the strongest control on
    raw values first."""
    found = []
    for name, row in group.items():
        metric = next((m for m in MAIN if isinstance(row, Mapping) and m in row), None)
        if metric is None:
            continue
        own = []
        for key, value in row.items():
            if not key.startswith(f"{metric}{_OVER}") or key.endswith(_SUFFIXES):
                continue
            ends = (float("nan") if row[f"{key}{end}"] is None else row[f"{key}{end}"] for end in ("_low", "_high"))
            own.append((name, key.removeprefix(f"{metric}{_OVER}"), metric, Interval(value, *ends)))
        raw = sorted((one for one in own if one[1].startswith("raw")), key=lambda one: one[3].value)
        found += [*raw, *(one for one in own if not one[1].startswith("raw"))]
    return found


def difference_in_words(row: str, control: str, metric: str, apart: Interval) -> str:
    """``pretrained - raw_best: R² +0.060 (+0.020 to +0.100)``."""
    ends = "" if np.isnan(apart.low) else f" ({apart.low:+.3f} to {apart.high:+.3f})"
    return f"{row} - {control}: {SHOWN.get(metric, metric)} {apart.value:+.3f}{ends}"


def derived(name: str, row: Mapping[str, Any]) -> bool:
    """Whether a number of a row says how another one of it varies, or how far it is from a control."""
    base = name.partition(_OVER)[0]
    if base != name and base in row:
        return True
    return any(name.endswith(suffix) and name.removesuffix(suffix) in row for suffix in _SUFFIXES)


def _merged(grid: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Of metrics by repetition and seed."""
    out: dict[str, Any] = {}
    every = [part for seeds in grid for part in seeds]
    first = every[0]
    for name, value in first.items():
        if any(name not in part for part in every) or name in ("draws", "intervals") or derived(name, first):
            continue
        if isinstance(value, Mapping):
            out[name] = _merged([[part[name] for part in seeds] for seeds in grid])
        elif isinstance(value, int | float) and not isinstance(value, bool) and name not in _CONSTANT:
            numbers = np.array([[float(part[name]) for part in seeds] for seeds in grid])
            by_seed = numbers.mean(0) if numbers.shape[1] > 1 else numbers[:, 0]
            spread = Spread.of(by_seed.tolist())
            out |= {name: spread.mean, f"{name}_sd": spread.sd, f"{name}_spread": float(np.ptp(by_seed))}
        else:
            out[name] = value
    return out


def _is_control(name: str) -> bool:
    return any(name == control or name.startswith(f"{control}_") for control in _CONTROLS)


def _controls(rows: Mapping[str, KeptRow], own: str) -> Iterator[tuple[str, str]]:
    """Names of the controls of a row of the same modalities and labels, without and with the percentage at the end."""
    row, percent = rows[own], re.search(r"_\d+(\.\d+)?$", own)
    for name, other in rows.items():
        if _is_control(name) and (other.modalities, other.fraction) == (row.modalities, row.fraction):
            yield name.removesuffix(percent[0]) if percent else name, name


def _add_difference(
    entry: dict[str, Any], row: SeedDraws, control: SeedDraws, name: str, metrics: Sequence[str]
) -> None:
    for metric in metrics:
        apart = difference(row, control, metric)
        low, high = _ends(apart)
        key = f"{metric}{_OVER}{name}"
        entry |= {key: apart.value, f"{key}_low": low, f"{key}_high": high}


def _ends(found: Interval) -> tuple[float | None, float | None]:
    return (None, None) if np.isnan(found.low) else (found.low, found.high)


def _told(runs: Runs, key: str) -> str:
    """What the numbers of a group are over, and what was drawn for their intervals."""
    seeds = len(next(iter(runs.values())))
    over = f"{seeds} seeds" if seeds > 1 else "one seed"
    over += f" and {len(runs)} repetitions ({', '.join(runs)})" if len(runs) > 1 else ""
    varied = "seeds" if seeds > 1 else "repetitions"
    firsts = [seeds[0].kept[key] for seeds in runs.values()]
    counts = [len(next(iter(kept.rows.values())).sums.blocks) for kept in firsts]
    what = "blocks of ground" if all(kept.known for kept in firsts) else "tiles"
    numbers = " and ".join(map(str, dict.fromkeys(counts)))
    said = f"Means over {over}; ± is the standard deviation over {varied}"
    if min(counts) < FEWEST:
        return f"{said}; no interval: {numbers} {what} are too few to tell how scores vary."
    drawn = "seeds and " if seeds > 1 else ""
    return f"{said}, in parentheses the 95 % interval of 1000 draws of {drawn}the {numbers} {what}."
