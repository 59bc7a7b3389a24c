"""The pages that experiments, commands and training runs leave behind."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation import Section, Spread, Table, write_report
from ..training import read_header
from ..training.run_folder import environment
from .cautions import lost_pretraining
from .expectations import Expectation
from .experiment import Experiment
from .scores import column
from .state import State
from .words import expected_in_words

__all__ = ["conditions", "write", "write_repeats", "write_run"]


def write(experiment: Experiment, state: State, source: str) -> Path:
    """Writes ``report.html`` of an experiment: the answer, the sections of its steps, the conditions of it all."""
    known = {"Experiment": experiment.name, "Data": source} | conditions(state)
    if experiment.notes:
        known["Note"] = experiment.notes
    summary = f"{experiment.question} {_in_words(experiment, state.metrics)}".strip()
    sections, warnings = [*state.sections, *state.appendix], lost_pretraining(state.metrics)
    out = state.out / "report.html"
    return write_report(out, experiment.title, sections, summary=summary, warnings=warnings, conditions=known)


def write_repeats(
    experiment: Experiment,
    out: Path,
    parts: Mapping[str, Mapping[str, Any]],
    metrics: Mapping[str, Any],
    source: str,
) -> Path:
    """Writes ``report.html`` of an experiment with repetitions: every group of scores, one by one and on average."""
    sections = []
    for key, group in metrics.items():
        rows = {n: r for n, r in group.items() if isinstance(r, Mapping)} if isinstance(group, Mapping) else {}
        names = list(dict.fromkeys(n for row in rows.values() for n in row if f"{n}_sd" in row))
        if not names:
            continue
        cells: list[list[Any]] = []
        for row, means in rows.items():
            spreads = [Spread(means[n], means[f"{n}_sd"], len(parts)) if n in means else "–" for n in names]
            cells.append([row, "mean", *spreads])
            cells += [[row, part, *(found[key][row].get(n, "–") for n in names)] for part, found in parts.items()]
        heads = [name.replace("_", " ") for name in names]
        told = f"Means and standard deviations over {', '.join(parts)}; the pages of each are in its folder."
        sections.append(Section(key, "", [Table(["row", "repetition", *heads], cells, told)]))
    known = {"Experiment": experiment.name, "Data": source, "Repetitions": ", ".join(parts)} | _machine(
        environment(), None
    )
    if experiment.notes:
        known["Note"] = experiment.notes
    summary = f"{experiment.question} {_in_words(experiment, metrics)}".strip()
    return write_report(
        out / "report.html",
        experiment.title,
        sections,
        summary=summary,
        warnings=lost_pretraining(metrics),
        conditions=known,
    )


def conditions(state: State) -> dict[str, Any]:
    """Seed, machine, software, commit and command: what somebody needs who gets other numbers."""
    return {"Seed": str(state.seed)} | _machine(environment(), state.metrics.get("seconds"))


def write_run(run: Path, out: Path) -> Path:
    """Writes a page about a training run: curves, model, data, machine, commands.

    Raises:
        ValueError: ``run`` is no run folder.
    """
    import json

    from ..evaluation.plots import loss_curves

    if not (run / "metrics.csv").is_file():
        raise ValueError(f"{run} is no run folder: it has no metrics.csv; give the folder of a pretrain or finetune")
    header = read_header(run)
    config = dict(header.config)
    modalities = config.pop("modalities", [])
    columns = ["modality", "kind", "bands", "resolution (m)", "patch (pixels)", "unit"]
    rows = [
        [m["name"], m["kind"], " ".join(m["bands"]), m["resolution"], m["patch_size"], m["unit"] or "–"]
        for m in modalities
    ]
    sizes = Table(["field", "value"], [[key, str(value)] for key, value in config.items()], "Configuration.")
    reached = Table(["metric", "value"], [[k, v] for k, v in header.metrics.items()], "Of the best model.")
    sections = [
        Section("Training", "", [loss_curves(run / "metrics.csv"), reached]),
        Section("What it looks at", "", [Table(columns, rows, "Bands and units the checkpoint insists on.")]),
        Section("Model", f"System {header.system}.", [sizes]),
    ]
    known: dict[str, Any] = {}
    if (run / "environment.json").is_file():
        known = _machine(json.loads((run / "environment.json").read_text()), None)
        known.pop("Command")
    if (run / "commands.txt").is_file():
        known["Commands"] = (run / "commands.txt").read_text().strip().replace("\n", "; ")
    return write_report(out, f"Training run {run.name}", sections, summary=_course(run), conditions=known)


def _course(run: Path) -> str:
    """How training went, in a sentence."""
    for name, told in (("val/loss", "tiles that were held out"), ("train/loss", "the tiles it was trained on")):
        curve = column(run / "metrics.csv", name)
        if curve:
            epochs = f"{len(curve)} epoch{'s' if len(curve) > 1 else ''}"
            return f"In {epochs} of training the loss on {told} went from {curve[0]:.3g} to {curve[-1]:.3g}."
    return ""


def _machine(machine: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    devices = [f"{machine['cpu']['name']}, {machine['cpu']['threads']} threads", *machine["gpu"]]
    software = {"eo-fusion": machine["eo-fusion"], "Python": machine["python"], **machine["packages"]}
    return {
        **({} if seconds is None else {"Time": f"{seconds:.0f} s"}),
        "Machine": ", ".join(devices),
        "Software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "Commit": machine["commit"] or "installed package",
        "Command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _in_words(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    expected = [Expectation.parse(text) for text in experiment.expect]
    told = [expected_in_words(one, metrics) for one in expected]
    broken = [text for text, one in zip(told, expected, strict=True) if not one.holds(metrics)]
    if broken:
        return f"NOT as expected; this does not hold: {'; '.join(broken)}."
    return f"As expected: {'; '.join(told)}." if told else ""
