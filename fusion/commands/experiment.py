"""``fusion experiment``: one YAML from data to table and pictures. ``fusion demo`` is the one called ``demo``."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["demo", "experiment"]


def experiment(
    name: str,
    *,
    data: str | None = None,
    out: str | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    fresh: bool = False,
    short: bool = False,
    progress: bool | None = None,
    reader: dict[str, Any] | None = None,
    size: str | None = None,
    training: dict[str, Any] | None = None,
) -> int:
    """Runs an experiment from data to table and pictures; exits 1 if what it expects does not hold.

    Writes metrics.json, report.html and the trained models into the folder of results.

    Args:
        name: one that ships with the package, or a YAML file.
        data: folder of the data, or `landscape`.
        out: folder of results, runs/NAME by default.
        seed: instead of the experiment's own, the first of them.
        seeds: how many, each with a training of its own; 3 unless the experiment says otherwise.
        fresh: train again what an earlier run left in the folder, rather than going on with it.
        short: a trial of minutes that hardly trains, to see that everything runs on this machine and these data; into
            runs/NAME-short, by two seeds, and nothing is expected of its scores.
        progress: show every epoch; by default on a terminal.
        reader: options of the data's reader beside the experiment's own, e.g. --reader.test_fold 1.
        size: of the models that it trains, e.g. tiny, for a smaller machine.
        training: of the trainer in every step, e.g. --training.epochs 5 or --training.batch_size 16.
    """
    from fusion.commands.following import command, lead_on
    from fusion.commands.session import print_table
    from fusion.workflow import load_experiment, run_experiment
    from fusion.workflow.experiment import shortened, with_settings

    shown = sys.stdout.isatty() if progress is None else progress
    chosen = load_experiment(name)
    chosen = with_settings(shortened(chosen) if short else chosen, size=size, training=training, reader=reader)
    outcome = run_experiment(chosen, data=data, out=out, seed=seed, seeds=seeds, fresh=fresh, progress=shown)
    print_table(outcome.metrics)
    for told, met in outcome.verdict.items():
        print(f"{'met    ' if met else 'NOT MET'}  {told}")
    if name == "demo":
        lead_on(command("data check", "DIR"))
    elif short:
        lead_on(command("experiment", name, data=data))
    elif chosen.row:
        lead_on(command("table", outcome.out))
    return 0 if outcome.as_expected else 1


def demo(*, out: str = "runs/demo", seed: int | None = None, fresh: bool = False, progress: bool | None = None) -> int:
    """Shows in minutes, without any data, what the package does: pretrain, probe with few labels, map, report.

    Trains a small OmniSat on the built-in synthetic landscape, then compares it with the same encoder untrained and
    with raw bands. Exits 1 if pretraining does not beat both.

    Args:
        out: folder of results.
        seed: of landscape, weights and draws of labels.
        fresh: train again what an earlier run left in the folder, rather than going on with it.
        progress: show every epoch; by default on a terminal.
    """
    return experiment("demo", out=out, seed=seed, fresh=fresh, progress=progress)
