"""What an experiment is: one YAML, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .expectations import Expectation

__all__ = ["Experiment", "experiments", "load_experiment"]

_FOLDER = Path(__file__).parent.parent / "presets" / "experiments"


@dataclass(frozen=True)
class Experiment:
    """What an experiment's YAML says.

    Attributes:
        title: of the report.
        data: ``source`` (may be left to ``--data``), ``reader`` (its options), ``splits`` (by role). Data that is no
            tiles has its own opener as ``open: module:function``; it takes the source and the reader's options, and
            returns parts by role and a sentence about them.
        steps: one-key mappings from a step of :mod:`fusion.workflow.steps`, or ``module:function`` of another one,
            to its settings, in order.
        question: what it asks, in a sentence or two, for the report.
        seed: of weights, batches and draws of labels.
        expect: comparisons of two metrics, or of a metric and a number, that must hold, e.g.
            ``probe.pretrained.macro_f1 > probe.raw.macro_f1``.
        notes: what a reader of the results must know, in the report's conditions.
    """

    name: str
    title: str
    data: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    question: str = ""
    seed: int = 0
    expect: tuple[str, ...] = ()
    notes: str = ""


def experiments() -> list[str]:
    """Names of the experiments that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_experiment(name: str | Path) -> Experiment:
    """Reads an experiment by name, or from a YAML file of one's own, and checks its form.

    Raises:
        ValueError: no such experiment, an unknown or missing key, an unknown step, an expectation that is none.
    """
    import yaml

    path = Path(name) if str(name).endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no experiment {name!r}; there are {', '.join(experiments())}, or give a YAML file")
    try:
        table = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    known = [f.name for f in fields(Experiment) if f.name != "name"]
    if not isinstance(table, dict) or set(table) - set(known) or not {"title", "data", "steps"} <= set(table):
        found = ", ".join(table) if isinstance(table, dict) else type(table).__name__
        raise ValueError(f"{path}: keys {found}; an experiment has title, data, steps and may have {', '.join(known)}")
    experiment = Experiment(
        path.stem, **table | {"steps": tuple(table["steps"]), "expect": tuple(table.get("expect", ()))}
    )
    for expectation in experiment.expect:
        Expectation.parse(expectation)
    return experiment
