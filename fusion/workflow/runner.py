"""Runs an experiment: one YAML, from data to table, pictures and ``metrics.json``."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..evaluation.metrics import Spread
from ..training.files import write_atomically
from .expectations import Expectation
from .experiment import Experiment, with_settings

__all__ = ["Outcome", "mean_metrics", "run_experiment"]


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

    A run that was interrupted goes on with the training it was in; steps that take seconds are done again. With
    ``repeats`` each repetition has a folder of its own in ``out``, and the metrics in ``out`` are means over them.

    Args:
        data, seed: instead of those of the experiment.
        fresh: train again rather than going on with what an earlier run left in ``out``.
        progress: show what training prints.
        say: gets a line at the end of each step, and the table at the end.

    Raises:
        ValueError: no data given, an unknown step or setting, or what a step refuses.
    """
    from .report import write_repeats

    out, chosen = Path(out or Path("runs") / experiment.name), experiment.seed if seed is None else seed
    source = data or experiment.data.get("source")
    if source is None:
        raise ValueError(f"experiment {experiment.name} needs data: --data DIR")
    how: dict[str, Any] = {"fresh": fresh, "progress": progress, "say": say}
    if not experiment.repeats:
        return _run(experiment, source, out, chosen, **how)
    parts = {}
    for name, reader in experiment.repeats.items():
        say(f"{experiment.title}: {name}")
        one = replace(with_settings(experiment, reader=reader), expect=())
        parts[name] = _run(one, source, out / name, chosen, **how).metrics
    metrics = mean_metrics(list(parts.values())) | {"repeats": list(parts), "row": dict(experiment.row)}
    verdict = _verdict(experiment, metrics)
    write_repeats(experiment, out, parts, metrics, str(source))
    write_atomically(out / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    return Outcome(out, metrics, verdict)


def _run(
    experiment: Experiment,
    source: str | Path,
    out: Path,
    seed: int,
    *,
    fresh: bool,
    progress: bool,
    say: Callable[[str], None],
) -> Outcome:
    """All steps on the data read in one way."""
    from ..data import open_data, partition
    from ..settings import call
    from .report import write
    from .state import State
    from .steps import STEPS

    steps = [_one(step, STEPS) for step in experiment.steps]
    out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    say(f"{experiment.title}")
    clock = _Clock(len(steps) + 2, say)
    reader = dict(experiment.data.get("reader", {}))
    state = State(out, seed, {}, fresh=fresh, progress=progress)
    if "open" in experiment.data:
        state.data, described = call(_imported(experiment.data["open"]), reader, "reader", source)
    else:
        if str(source) == "landscape":  # another seed means another landscape, too
            reader.setdefault("seed", seed)

        def opened(more: Mapping[str, Any]) -> dict[str, Any]:
            return partition(open_data(source, **(reader | dict(more))), experiment.data.get("splits"))

        state.data, state.opener = opened({}), opened
        described = _describe(state.data["all"], state.data)
    clock.done("data", described)
    for name, settings in steps:
        step = _imported(name) if ":" in name else STEPS[name]
        clock.done(name.partition(":")[2] or name, call(step, settings, f"step {name}", state))
    verdict = _verdict(experiment, state.metrics)
    state.metrics |= {
        "experiment": experiment.name,
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
    }
    if experiment.row:
        state.metrics["row"] = dict(experiment.row)
    report = write(experiment, state, str(source))
    write_atomically(out / "metrics.json", (json.dumps(state.metrics, indent=2) + "\n").encode())
    clock.done("report", f"{report}, {out / 'metrics.json'}")
    return Outcome(out, state.metrics, verdict)


def _verdict(experiment: Experiment, metrics: dict[str, Any]) -> dict[str, bool]:
    """Whether each expectation holds, in words; it is noted in the metrics, too."""
    expected = [Expectation.parse(text) for text in experiment.expect]
    verdict = {e.told(metrics): e.holds(metrics) for e in expected}
    metrics["expectations"] = {str(e): e.holds(metrics) for e in expected}
    return verdict


def mean_metrics(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Numbers that all parts have become ``<name>``, their mean, and ``<name>_sd``; all else is that of the first.

    The spread is over parts: that of the draws within a part is left to it.
    """
    out: dict[str, Any] = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts if name in part]
        if len(values) < len(parts) or name == "draws" or name.endswith("_sd"):
            continue
        if isinstance(first, Mapping):
            out[name] = mean_metrics(values)
        elif isinstance(first, int | float) and not isinstance(first, bool) and name not in _CONSTANT:
            spread = Spread.of([float(value) for value in values])
            out |= {name: spread.mean, f"{name}_sd": spread.sd}
        else:
            out[name] = first
    return out


_CONSTANT = ("seed", "parameters", "epochs", "seconds")


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
