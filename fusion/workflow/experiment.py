"""What an experiment is: one YAML, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fusion.yaml_loader import load_yaml

from .expectations import Expectation

__all__ = ["Experiment", "experiments", "load_experiment", "merged", "shortened", "with_settings"]

_DATA = ("source", "reader", "splits", "open", "transfer")
_FOLDER = Path(__file__).parent.parent / "presets" / "experiments"


@dataclass(frozen=True)
class Experiment:
    """What an experiment's YAML says.

    Attributes:
        title: of the report.
        data: ``source`` (may be left to ``--data``), ``reader`` (its options), ``splits`` (by role). Data that is no
            tiles has its own opener as ``open: module:function``; it takes the source and the reader's options, and
            returns parts by role and a sentence about them. ``transfer: scene`` in place of splits, or a mapping of
            settings of :func:`fusion.data.transfer.transfers`, repeats all steps for each scene that is left out.
        steps: one-key mappings from a step of :mod:`fusion.workflow.steps`, or ``module:function`` of another one,
            to its settings, in order.
        question: what it asks, in a sentence or two, for the report.
        seed: of weights, batches and draws of labels.
        seeds: how many: all steps are run for ``seed``, ``seed + 1`` and so on, and metrics are means over them.
        expect: comparisons of two metrics, or of a metric and a number, that must hold, e.g.
            ``probe.pretrained.macro_f1 > probe.raw.macro_f1``; one of ``each.probe.pretrained.macro_f1`` must hold in
            every repetition.
        notes: what a reader of the results must know, in the report's conditions.
        row: where its scores belong in a table of results, see :mod:`fusion.workflow.table`.
        repeats: options of the reader by name of a repetition, e.g. ``{fold-1: {test_fold: 1}}``; all steps are run for
            each, and metrics are means over them.
        short: what a trial of minutes changes, see :func:`shortened`: options of the reader, and settings of steps by
            their name, ``{reader: {...}, steps: {step: {...}}}``.

    A YAML may say ``extends: NAME``: it then has all that the other has, with its own keys in place of theirs, and its
    ``settings: {step: {...}}`` in the steps of that name. Mappings are merged key by key, ``row`` field by
    field; of own ``steps`` a bare name is the other's step of that name.
    """

    name: str
    title: str
    data: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]
    question: str = ""
    seed: int = 0
    seeds: int = 3
    expect: tuple[str, ...] = ()
    notes: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)
    repeats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    short: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def experiments() -> list[str]:
    """Names of the experiments that ship with the package."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_experiment(name: str | Path) -> Experiment:
    """Reads an experiment by name, or from a YAML file of one's own, and checks its form.

    Raises:
        ValueError: no such experiment, an unknown or missing key, an unknown step, an expectation that is none.
    """
    table, path = _table(name)
    known = [f.name for f in fields(Experiment) if f.name != "name"]
    if set(table) - set(known) or not {"title", "data", "steps"} <= set(table):
        raise ValueError(
            f"{path}: keys {', '.join(table)}; an experiment has title, data, steps and may have {', '.join(known)}, "
            "extends, settings"
        )
    experiment = Experiment(
        path.stem, **table | {"steps": tuple(table["steps"]), "expect": tuple(table.get("expect", ()))}
    )
    for expectation in experiment.expect:
        Expectation.parse(expectation)
    if isinstance(experiment.seeds, bool) or not isinstance(experiment.seeds, int) or experiment.seeds < 1:
        raise ValueError(f"{path}: seeds {experiment.seeds!r}; a number of seeds is wanted, 1 or more")
    strange = [key for key in experiment.data if key not in _DATA]
    if strange:
        raise ValueError(f"{path}: data has {', '.join(strange)}; it may have {', '.join(_DATA)}")
    strange = [key for key in experiment.short if key not in ("reader", "steps")]
    if strange:
        raise ValueError(f"{path}: short has {', '.join(strange)}; it may have reader, steps")
    _check_names(path, "short", experiment.short.get("steps", {}), experiment.steps)
    return experiment


def with_settings(
    experiment: Experiment,
    *,
    size: str | None = None,
    training: Mapping[str, Any] | None = None,
    reader: Mapping[str, Any] | None = None,
) -> Experiment:
    """The experiment on another scale: for a smaller machine, or to see whether it runs at all.

    Args:
        size: of the models, in every step that trains one by a named size.
        training: arguments of :func:`fusion.training.fit`, in every step that trains.
        reader: options of the data's reader.
    """
    own = dict(experiment.data)
    if reader:
        own["reader"] = merged(own.get("reader", {}), reader)
    changes: dict[str, Any] = {}
    if size is not None:
        changes = merged(changes, {name: {"size": size} for name in _SIZED})
    if training:
        changes = merged(changes, {name: {"training": training} for name in _TRAINING})
    return replace(experiment, data=own, steps=tuple(_step_with(step, changes) for step in experiment.steps))


def shortened(experiment: Experiment) -> Experiment:
    """A trial of minutes: all is done from the data to the page, but hardly trained, so that scores mean nothing.

    Every step that trains stops after two batches, ``short`` of the YAML says what else is changed, there are two seeds
    at most, nothing is expected, and no table of results has a row of it. Its name ends in ``-short``.
    """
    brief = with_settings(experiment, training=_SHORT, reader=experiment.short.get("reader"))
    changes = experiment.short.get("steps", {})
    return replace(
        brief,
        name=f"{experiment.name}-short",
        title=f"{experiment.title} (short form)",
        steps=tuple(_step_with(step, changes) for step in brief.steps),
        seeds=min(experiment.seeds, 2),
        expect=(),
        notes=f"Short form, hardly trained: it shows that everything runs; its scores mean nothing. {experiment.notes}",
        row={},
    )


_SIZED = ("pretrain", "baseline")
_TRAINING = ("pretrain", "finetune", "baseline")
_SHORT = {"epochs": 1, "min_epochs": 0, "limit_train_batches": 2}


def _table(name: str | Path, extended: tuple[str, ...] = ()) -> tuple[dict[str, Any], Path]:
    """What a YAML holds, upon what it extends."""
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"no experiment {name!r}; there are {', '.join(experiments())}, or give a YAML file")
    table = load_yaml(path)
    if not isinstance(table, dict):
        raise ValueError(f"{path}: keys with values are wanted, {type(table).__name__} found")
    base, settings = table.pop("extends", None), table.pop("settings", {})
    if base is not None:
        if base in extended:
            raise ValueError(f"{path}: extends {base}, which extends it in turn")
        below = _table(base, (*extended, str(name)))[0]
        theirs = {_name(step): step for step in below.get("steps", ())}
        if "steps" in table:
            table["steps"] = [theirs.get(step, step) if isinstance(step, str) else step for step in table["steps"]]
        row = {**below.get("row", {}), **table.get("row", {})}
        table = merged(below, table) | {"row": row}
    if settings:
        _check_names(path, "settings", settings, table.get("steps", ()))
        table["steps"] = [_step_with(step, settings) for step in table["steps"]]
    return table, path


def _check_names(path: Path, what: str, settings: Mapping[str, Any], steps: Sequence[Any]) -> None:
    names = {_name(step) for step in steps}
    strange = [step for step in settings if step not in names]
    if strange:
        raise ValueError(f"{path}: {what} of {', '.join(strange)}; the steps are {', '.join(sorted(names))}")


def _name(step: Any) -> str:
    return step if isinstance(step, str) else str(next(iter(step)))


def _step_with(step: Any, settings: Mapping[str, Any]) -> Any:
    """A step with the settings for its name."""
    name = _name(step)
    if name not in settings:
        return step
    own = {} if isinstance(step, str) else step[name] or {}
    return {name: merged(own, settings[name])}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one; where both have a key, mappings are merged in turn, and else that of ``above`` counts."""
    out = dict(below)
    for key, value in above.items():
        before = out.get(key)
        out[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return out
