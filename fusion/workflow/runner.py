"""Runs an experiment: one YAML, from data to table, pictures and ``metrics.json``."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..training.files import write_atomically
from ..training.run_lock import alone_in
from .combined import ONE_SEED, Run, add_intervals, combined
from .expectations import Expectation
from .experiment import Experiment, with_settings
from .kept import read_kept, write_kept
from .opening import Opener, imported, transfer_names

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
    seeds: int | None = None,
    fresh: bool = False,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Runs all steps in order and writes ``metrics.json`` and ``report.html`` into ``out`` (``runs/<name>``).

    A run that was interrupted goes on with the training it was in; steps that take seconds are done again. With
    several seeds each has a folder ``seed-<k>`` in ``out``; with ``repeats``, or with ``transfer`` in its data, each
    repetition has a folder of its own, with its seeds in it. The metrics in ``out`` are then means, see
    :func:`fusion.workflow.combined.combined`, and those of each repetition are in ``repetitions``; a seed that an
    earlier call finished with the same settings is taken as it is.

    Args:
        data, seed, seeds: instead of those of the experiment; seeds are ``seed``, ``seed + 1``, ...
        fresh: train again rather than going on with what an earlier run left in ``out``.
        progress: show what training prints.
        say: gets a line at the end of each step, and the table at the end.

    Raises:
        ValueError: no data given, fewer than one seed, an unknown step or setting, or what a step refuses.
        RuntimeError: another process writes into ``out``.
    """
    out = Path(out or Path("runs") / experiment.name)
    first = experiment.seed if seed is None else seed
    number = experiment.seeds if seeds is None else seeds
    source = data or experiment.data.get("source")
    if source is None:
        raise ValueError(f"experiment {experiment.name} needs data: --data DIR")
    if number < 1:
        raise ValueError(f"experiment {experiment.name}: seeds {number}; give 1 or more")
    run = _Runner(experiment, source, out, fresh=fresh, progress=progress, say=say)
    repetitions = _repetitions(experiment, source)
    with alone_in(out):
        if len(repetitions) == 1 and number == 1 and "" in repetitions:
            return run.alone(repetitions[""], first)
        chosen, began = [first + k for k in range(number)], time.perf_counter()
        runs = {}
        for name, opener in repetitions.items():
            runs[name] = [run.part(opener, Path(name) / (f"seed-{k}" if number > 1 else ""), k) for k in chosen]
        return run.together(runs, chosen, time.perf_counter() - began)


def _repetitions(experiment: Experiment, source: str | Path) -> dict[str, Opener]:
    """The data of each repetition by its name, which is empty where there is only one."""
    if "transfer" in experiment.data:
        return {name: Opener(experiment, source, name) for name in transfer_names(experiment, source)}
    if experiment.repeats:
        return {n: Opener(with_settings(experiment, reader=r), source) for n, r in experiment.repeats.items()}
    return {"": Opener(experiment, source)}


class _Runner:
    """Runs the steps of one experiment, for one seed of one repetition at a time."""

    def __init__(
        self,
        experiment: Experiment,
        source: str | Path,
        out: Path,
        *,
        fresh: bool,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        from .steps import STEPS

        self.experiment, self.source, self.out = experiment, source, out
        self.fresh, self.progress, self.say = fresh, progress, say
        self.steps = [_one(step, STEPS) for step in experiment.steps]
        self.known = STEPS

    def alone(self, opener: Opener, seed: int) -> Outcome:
        """The whole experiment in one run."""
        self.say(self.experiment.title)
        return self._run(self.experiment, opener, Path(), seed)

    def part(self, opener: Opener, part: Path, seed: int) -> Run:
        """One seed of one repetition, in its folder; what an earlier call finished there is read."""
        digest, folder = self._digest(opener, seed), self.out / part
        before = folder / "metrics.json"
        if not self.fresh and before.is_file():
            metrics = json.loads(before.read_text())
            if metrics.get("settings") == digest:
                self.say(f"{self.experiment.title}: {part}, finished before (--fresh runs it again)")
                return Run(metrics, read_kept(folder))
        self.say(f"{self.experiment.title}: {part}")
        metrics = self._run(replace(self.experiment, expect=()), opener, part, seed, digest).metrics
        return Run(metrics, read_kept(folder))

    def together(self, runs: Mapping[str, list[Run]], seeds: list[int], seconds: float) -> Outcome:
        """All seeds and repetitions as one, with the page about them."""
        from .together import write_together

        experiment = self.experiment
        metrics = combined(runs, seeds[0])
        if len(runs) > 1 or "" not in runs:
            metrics["repetitions"] = {name: combined({name: own}, seeds[0]) for name, own in runs.items()}
        parts = [str(Path(name) / f"seed-{k}") if len(seeds) > 1 else name for name in runs for k in seeds]
        metrics |= {"repeats": parts, "seeds": seeds, "seconds": round(seconds, 1), "row": dict(experiment.row)}
        metrics = {name: value for name, value in metrics.items() if name not in ("seed", "settings", "about_seeds")}
        metrics |= _about_seeds(experiment, len(seeds))
        verdict = _verdict(experiment, metrics)
        write_together(experiment, self.out, runs, seeds, metrics, str(self.source))
        write_atomically(self.out / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
        return Outcome(self.out, metrics, verdict)

    def _run(self, experiment: Experiment, opener: Opener, part: Path, seed: int, digest: str = "") -> Outcome:
        """All steps on the data read in one way."""
        from ..settings import call
        from .report import write
        from .state import State

        out = self.out / part
        out.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        clock = _Clock(len(self.steps) + 2, self.say)
        opened = opener.open(seed)
        state = State(out, seed, opened.parts, fresh=self.fresh, progress=self.progress, part=part)
        state.opener = opened.reopen
        clock.done("data", opened.described)
        for name, settings in self.steps:
            step = imported(name) if ":" in name else self.known[name]
            clock.done(name.partition(":")[2] or name, call(step, settings, f"step {name}", state))
        add_intervals(state.metrics, {"": [Run(state.metrics, state.kept)]}, seed)
        state.metrics |= _about_seeds(experiment, 1)
        verdict = _verdict(experiment, state.metrics)
        state.metrics |= {
            "experiment": experiment.name,
            "seed": seed,
            "seconds": round(time.perf_counter() - began, 1),
        }
        if digest:
            state.metrics["settings"] = digest
        if experiment.row:
            state.metrics["row"] = dict(experiment.row)
        report = write(experiment, state, str(self.source))
        write_kept(state.kept, out)
        write_atomically(out / "metrics.json", (json.dumps(state.metrics, indent=2) + "\n").encode())
        clock.done("report", f"{report}, {out / 'metrics.json'}")
        return Outcome(out, state.metrics, verdict)

    def _digest(self, opener: Opener, seed: int) -> str:
        """Of all that a run's numbers follow from: with another one, it is run again."""
        told = {
            "steps": self.steps,
            "data": opener.data,
            "transfer": opener.transfer,
            "source": str(self.source if str(self.source) == "landscape" else Path(self.source).resolve()),
            "seed": seed,
            "version": version("eo-fusion"),
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _about_seeds(experiment: Experiment, seeds: int) -> dict[str, str]:
    """A note for the metrics that there was one seed, unless steps train nothing or repeat their training."""
    steps = [(step, {}) if isinstance(step, str) else next(iter(step.items())) for step in experiment.steps]
    trains = any(":" in name or name in ("pretrain", "finetune", "baseline") for name, _ in steps)
    within = any((settings or {}).get("repeats", 1) > 1 for _, settings in steps)
    return {"about_seeds": ONE_SEED} if seeds == 1 and trains and not within else {}


def _verdict(experiment: Experiment, metrics: dict[str, Any]) -> dict[str, bool]:
    """Whether each expectation holds, in words; it is noted in the metrics, too."""
    expected = [e for text in experiment.expect for e in Expectation.parse(text).of_each(metrics)]
    verdict = {e.told(metrics): e.holds(metrics) for e in expected}
    metrics["expectations"] = {str(e): e.holds(metrics) for e in expected}
    return verdict


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
