"""The page that an experiment leaves behind."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation import write_report
from ..training.run_folder import environment
from .state import State

if TYPE_CHECKING:
    from .runner import Experiment

__all__ = ["write"]


def write(experiment: Experiment, state: State, source: str, failed: Sequence[str]) -> Path:
    """Writes ``report.html``: the answer, the sections of the steps, the conditions of every number."""
    machine = environment()
    conditions = {
        "Experiment": experiment.name,
        "Data": f"{source}, {len(state.split('all'))} tiles",
        "Seed": str(state.seed),
        "Time": f"{state.metrics['seconds']:.0f} s on {machine['cpu']['name']}, {machine['cpu']['threads']} threads"
        + (f", {', '.join(machine['gpu'])}" if machine["gpu"] else ""),
        "Software": ", ".join(
            f"{k} {v}" for k, v in {"eo-fusion": machine["eo-fusion"], **machine["packages"]}.items()
        ),
        "Commit": machine["commit"] or "installed package",
        "Command": shlex.join(sys.argv),
    }
    if experiment.notes:
        conditions["Note"] = experiment.notes
    lines = [experiment.question, verdict(experiment, state, failed)]
    return write_report(
        state.out / "report.html",
        experiment.title,
        state.sections,
        summary=" ".join(line for line in lines if line),
        conditions=conditions,
    )


def verdict(experiment: Experiment, state: State, failed: Sequence[str]) -> str:
    """Which of the expectations held, in words."""
    if not experiment.expect:
        return ""
    if failed:
        return f"NOT MET: {'; '.join(failed)}."
    return f"Met: {'; '.join(experiment.expect)}."
