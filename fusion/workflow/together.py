"""The page about an experiment of several seeds or repetitions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation import Picture, Section, Spread, Table, write_report
from ..training.run_folder import environment
from .cautions import lost_pretraining
from .combined import Runs, derived
from .controls import about_seeds, against_controls
from .curve import curve_of_runs
from .experiment import Experiment
from .report import described, machine, told

__all__ = ["write_together"]


def write_together(
    experiment: Experiment, out: Path, runs: Runs, seeds: Sequence[int], metrics: Mapping[str, Any], source: str
) -> Path:
    """Writes ``report.html``: every group of scores on average and run by run, and how far it is above its controls.

    Args:
        runs: by repetition, one for each of ``seeds``.
        metrics: of all together, see :func:`fusion.workflow.combined.combined`.
    """
    sections = []
    for key, group in metrics.items():
        if key != "repetitions" and isinstance(group, Mapping):
            items: list[Table | Picture] = [*_table(key, group, runs, seeds), *curve_of_runs(key, runs)]
            sections += [Section(key, "", items)] if items else []
    known = described(experiment, source) | {"Seeds": ", ".join(map(str, seeds))}
    if "" not in runs:
        known["Repetitions"] = ", ".join(runs)
    return write_report(
        out / "report.html",
        experiment.title,
        [*sections, *_differences(metrics)],
        summary=f"{experiment.question} {told(experiment, metrics)}".strip(),
        warnings=[*about_seeds(metrics), *lost_pretraining(metrics)],
        conditions=known | machine(environment(), metrics.get("seconds")),
    )


def _table(key: str, group: Mapping[str, Any], runs: Runs, seeds: Sequence[int]) -> list[Table]:
    """Of each row the mean, then each repetition and seed; none for a group without rows of scores."""
    rows = {name: row for name, row in group.items() if isinstance(row, Mapping)}
    names = list(dict.fromkeys(n for row in rows.values() for n in row if f"{n}_sd" in row))
    if not names:
        return []
    cells: list[list[Any]] = []
    for name, row in rows.items():
        if not any(n in row for n in names):
            continue
        cells.append([name, "mean", *(_mean(row, n, len(seeds)) for n in names)])
        for repetition, own in runs.items():
            for seed, run in zip(seeds, own, strict=True):
                which = " ".join(part for part in (repetition, f"seed {seed}" if len(seeds) > 1 else "") if part)
                found = run.metrics.get(key, {}).get(name, {})
                cells.append([name, which, *(found.get(n, "–") for n in names)])
    heads = [name.replace("_", " ") for name in names]
    over = "seeds" if len(seeds) > 1 else ", ".join(runs)
    caption = group.get("conditions") or f"Means and standard deviations over {over}."
    return [Table(["row", "run", *heads], cells, f"{caption} The pages of each run are in its folder.")]


def _mean(row: Mapping[str, Any], name: str, seeds: int) -> Any:
    """The mean with its standard deviation and interval, as text."""
    if name not in row or derived(name, row):
        return "–"
    spread = str(Spread(row[name], row[f"{name}_sd"], 2))
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return spread if low is None or high is None else f"{spread} ({low:.3f} to {high:.3f})"


def _differences(metrics: Mapping[str, Any]) -> list[Section]:
    """Over all repetitions, then of each."""
    found = against_controls(metrics)
    repetitions: Mapping[str, Any] = metrics.get("repetitions", {})
    for name, own in repetitions.items():
        found += [Section(f"{section.title}: {name}", "", section.items) for section in against_controls(own)]
    return found
