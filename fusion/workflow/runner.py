"""Runs an experiment: one YAML, from data to table, pictures and ``metrics.json``."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .expectations import Expectation
from .experiment import Experiment

__all__ = ["Outcome", "run_experiment"]


@dataclass(frozen=True)
class Outcome:
    """Where everything lies, the metrics (nested, as in ``metrics.json``), and which expectations hold, in words."""

    out: Path
    metrics: dict[str, Any]
    verdict: dict[str, bool]

    @property
    def as_expected(self) -> bool:
        return all(self.verdict.values())


def run_experiment(
    experiment: Experiment,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    fresh: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Runs all steps in order and writes ``metrics.json`` and ``report.html`` into ``out`` (``runs/<name>``).

    A run that was interrupted goes on with the training it was in; steps that take seconds are done again.

    Args:
        data, seed: instead of those of the experiment.
        fresh: train again rather than going on with what an earlier run left in ``out``.
        progress: show what training prints.
        say: gets a line at the end of each step, and the table at the end.

    Raises:
        ValueError: no data given, an unknown step or setting, or what a step refuses.
    """
    from ..data import open_data, partition
    from ..settings import call
    from .report import write
    from .state import State
    from .steps import STEPS

    steps = [_one(step, STEPS) for step in experiment.steps]
    source = data or experiment.data.get("source")
    if source is None:
        raise ValueError(f"experiment {experiment.name} needs data: --data DIR")
    out = Path(out or Path("runs") / experiment.name)
    out.mkdir(parents=True, exist_ok=True)
    chosen = experiment.seed if seed is None else seed
    began = time.perf_counter()
    say(f"{experiment.title}")
    clock = _Clock(len(steps) + 2, say)
    reader = dict(experiment.data.get("reader", {}))
    if "open" in experiment.data:
        parts, described = call(_imported(experiment.data["open"]), reader, "reader", source)
    else:
        if str(source) == "landscape":  # another seed means another landscape, too
            reader.setdefault("seed", chosen)
        dataset = open_data(source, **reader)
        parts = partition(dataset, experiment.data.get("splits"))
        described = _describe(dataset, parts)
    state = State(out, chosen, parts, fresh=fresh, progress=progress)
    clock.done("data", described)
    for name, settings in steps:
        step = _imported(name) if ":" in name else STEPS[name]
        clock.done(name.partition(":")[2] or name, call(step, settings, f"step {name}", state))
    expected = [Expectation.parse(text) for text in experiment.expect]
    verdict = {e.told(state.metrics): e.holds(state.metrics) for e in expected}
    state.metrics |= {
        "experiment": experiment.name,
        "seed": chosen,
        "expectations": {str(e): e.holds(state.metrics) for e in expected},
        "seconds": round(time.perf_counter() - began, 1),
    }
    report = write(experiment, state, str(source), verdict)
    (out / "metrics.json").write_text(json.dumps(state.metrics, indent=2) + "\n")
    clock.done("report", f"{report}, {out / 'metrics.json'}")
    return Outcome(out, state.metrics, verdict)


class _Clock:
    """Numbers the steps and says how long each took."""

    def __init__(self, steps: int, say: Callable[[str], None]) -> None:
        self.steps, self.say, self.number, self.started = steps, say, 0, time.perf_counter()

    def done(self, name: str, what: str) -> None:
        self.number += 1
        seconds = time.perf_counter() - self.started
        self.started = time.perf_counter()
        self.say(f"{self.number}/{self.steps} {name:10} {what}  [{seconds:.1f} s]")


def _one(step: Any, known: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """``{"pretrain": {...}}``, or a bare name."""
    name, settings = (step, {}) if isinstance(step, str) else next(iter(step.items()))
    if (name not in known and ":" not in name) or (not isinstance(step, str) and len(step) != 1):
        raise ValueError(f"{step!r} is no step; one of {', '.join(known)}, or module:function, with its settings")
    return name, settings or {}


def _imported(place: str) -> Callable[..., Any]:
    """The function ``module:name``.

    Raises:
        ValueError: there is no such module or function.
    """
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no function {place!r}: {error}") from None


def _describe(dataset: Any, parts: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{len(part)} {role}" for role, part in parts.items() if role != "all")
    metres = dataset.modalities[0].patch_metres
    ground = f"{dataset.grid[0] * metres:g} x {dataset.grid[1] * metres:g} m"
    labels = f"; {len(dataset.classes)} {dataset.task} classes" if dataset.task not in (None, "regression") else ""
    labels = f"; target {', '.join(dataset.classes)}" if dataset.task == "regression" else labels
    return f"{len(dataset)} tiles of {ground} ({sizes}); {', '.join(m.name for m in dataset.modalities)}{labels}"
