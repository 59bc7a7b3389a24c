"""The pages that experiments, commands and training runs leave behind."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation import Section, Table, write_report
from ..training import read_header
from ..training.run_folder import environment
from .cautions import lost_pretraining
from .controls import about_seeds, against_controls
from .expectations import Expectation
from .experiment import Experiment
from .scores import column
from .state import State
from .words import expected_in_words

__all__ = ["conditions", "described", "machine", "told", "write", "write_run"]


def write(experiment: Experiment, state: State, source: str) -> Path:
    """Writes ``report.html`` of an experiment: the answer, the sections of its steps, the conditions of it all."""
    known = described(experiment, source) | conditions(state)
    sections = [*state.sections, *against_controls(state.metrics), *state.appendix]
    return write_report(
        state.out / "report.html",
        experiment.title,
        sections,
        summary=f"{experiment.question} {told(experiment, state.metrics)}".strip(),
        warnings=[*about_seeds(state.metrics), *lost_pretraining(state.metrics)],
        conditions=known,
    )


def described(experiment: Experiment, source: str) -> dict[str, Any]:
    """What was run, and what a reader must know of it."""
    note = {"Note": experiment.notes} if experiment.notes else {}
    return {"Experiment": experiment.name, "Data": source} | note


def conditions(state: State) -> dict[str, Any]:
    """Seed, machine, software, commit and command: what somebody needs who gets other numbers."""
    return {"Seed": str(state.seed)} | machine(environment(), state.metrics.get("seconds"))


def write_run(run: Path, out: Path) -> Path:
    """Writes a page about a training run: curves, model, data, machine, commands.

    Raises:
        ValueError: ``run`` is no run folder.
    """
    import json

    from ..evaluation.plots import loss_curves

    if (run / "member-0").is_dir():
        raise ValueError(f"{run} is an ensemble; give the folder of one of its members, e.g. {run / 'member-0'}")
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
        known = machine(json.loads((run / "environment.json").read_text()), None)
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


def machine(of: dict[str, Any], seconds: float | None) -> dict[str, Any]:
    """Machine, software, commit and command of a run.

    Args:
        of: see :func:`fusion.training.run_folder.environment`.
    """
    devices = [f"{of['cpu']['name']}, {of['cpu']['threads']} threads", *of["gpu"]]
    software = {"eo-fusion": of["eo-fusion"], "Python": of["python"], **of["packages"]}
    return {
        **({} if seconds is None else {"Time": f"{seconds:.0f} s"}),
        "Machine": ", ".join(devices),
        "Software": ", ".join(f"{name} {version}" for name, version in software.items()),
        "Commit": of["commit"] or "installed package",
        "Command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def told(experiment: Experiment, metrics: Mapping[str, Any]) -> str:
    """Which expectations hold, in words."""
    expected = [one for text in experiment.expect for one in Expectation.parse(text).of_each(metrics)]
    sentences = [expected_in_words(one, metrics) for one in expected]
    broken = [text for text, one in zip(sentences, expected, strict=True) if not one.holds(metrics)]
    if broken:
        return f"NOT as expected; this does not hold: {'; '.join(broken)}."
    return f"As expected: {'; '.join(sentences)}." if sentences else ""
