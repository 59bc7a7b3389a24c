"""The steps of baselines: supervised networks with the splits, draws and budget of fine-tuning, and band statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..data import TileDataset
from ..evaluation import Section, Table, probe, raw_statistics
from ..training.pretrain import configure
from ..training.systems import SYSTEMS
from . import scores
from .kept import keep
from .state import State
from .tuning import tune, viewed

__all__ = ["baseline", "statistics"]


def baseline(
    state: State,
    *,
    system: str,
    size: str = "tiny",
    model: Mapping[str, Any] | None = None,
    modalities: Sequence[str] | None = None,
    key: str = "baselines",
    name: str | None = None,
    fractions: Sequence[float] = (1.0,),
    draws: int = 1,
    lr: float | None = None,
    module: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    labelled: str = "train",
    validation: str | None = None,
    test: str = "test",
    augmentation: Mapping[str, Any] | None = None,
    reader: Mapping[str, Any] | None = None,
    alone: bool = True,
    every_class: bool = False,
) -> str:
    """Trains a model of a system on labels, from fresh weights: what a pretrained one is compared with.

    Scores go to ``<key>.<name>.<metric>``, of every modality alone too, ``<key>.<name>_<modality>.<metric>``; the
    number of parameters to ``<key>.<name>.parameters``, the training loss of the first and last epoch of the first run
    to ``<key>_loss.<name>``. Several baselines of one key share a table.

    Args:
        system: ``pse-ltae``, ``utae``, ``timm-image``, or any other.
        size, model: a named size of the system, and what differs from it.
        modalities: those given to the model; by default all that it can use.
        name: of the row; the system's by default.
        lr: learning rate; by default that of fine-tuning from scratch.
        module, training: arguments of the fine-tuning module and of :func:`fusion.training.fit`.
        validation: split that chooses the best epoch; None holds out a fifth of the labels, in whole
            blocks of ground where they are known.
        augmentation, reader, alone, every_class: as in fine-tuning.

    Raises:
        ValueError: an unknown system, size or field, no modality that the system can use, or a second row of a name.
    """
    name = name or system
    if name in state.metrics.get(key, {}):
        raise ValueError(f"step baseline: there is a row {name!r} in {key!r} already; give this one another name=")
    state = state.reopened(reader)
    known = state.split(labelled)
    chosen = _usable(system, known, model) if modalities is None else tuple(modalities)
    known, unseen = viewed(known, chosen), viewed(state.split(test), chosen)
    held_out = None if validation is None else viewed(state.split(validation), chosen)
    config = configure(system, known, size=size, model=model)
    torch.manual_seed(state.seed)
    fresh = SYSTEMS[system].load("model")(config)
    rows, losses, logs = tune(
        state,
        fresh,
        known,
        unseen,
        held_out,
        state.out / key / name,
        starts=("scratch",),
        fractions=fractions,
        draws=draws,
        rates=None if lr is None else {"scratch": lr},
        module=module,
        training=training,
        augmentation=augmentation,
        alone=alone,
        every_class=every_class,
    )
    rows = [replace(row, features=name) for row in rows]
    named = scores.by_modality(rows, first="finetune", prefix=True)
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    conditions = scores.conditions(state, rows, draws, labelled, test, found)
    parameters = sum(p.numel() for p in fresh.parameters())
    state.metrics.setdefault(f"{key}_loss", {})[name] = losses["scratch"]
    group = state.metrics.setdefault(key, {})
    group |= scores.as_metrics(named, found, unseen.classes) | {
        "conditions": _joined(group.get("conditions"), name, conditions)
    }
    for row in (row for row in named if row.startswith(name)):
        group[row]["parameters"] = parameters
    section = _section(state, key)
    tables, curves = [i for i in section.items if isinstance(i, Table)], section.items[1:]
    own = scores.table(named, group["conditions"], found)
    both = (
        replace(own, rows=[*(row for row in tables[0].rows if row[0] != scores.CHANCE), *own.rows]) if tables else own
    )
    text = f"{system} {size}, {parameters / 1e6:.2f} M parameters, on {', '.join(chosen)}."
    text = text if name == system else f"{name}: {text}"
    new = replace(section, text=f"{section.text}\n\n{text}".strip(), items=[both, *curves, *logs])
    state.sections[state.sections.index(section)] = new
    return f"{text} {scores.summary(named, scores.main_metric(rows), found)}"


def statistics(
    state: State,
    *,
    key: str = "statistics",
    fractions: Sequence[float] = (1.0,),
    draws: int = 1,
    probes: Sequence[str] = ("linear", "forest"),
    modalities: Sequence[str] | None = None,
    labelled: str = "train",
    test: str = "test",
    every_class: bool = False,
) -> str:
    """Probes band statistics, without any network: scores go to ``<key>.raw`` and ``<key>.raw_<probe>`` of all probes
    but the first; with several fractions their percentage follows."""
    known, unseen = viewed(state.split(labelled), modalities), viewed(state.split(test), modalities)
    seeds = [state.seed + k for k in range(draws)]
    described = {part: raw_statistics(tiles) for part, tiles in (("known", known), ("unseen", unseen))}
    names = tuple(m.name for m in known.modalities)
    rows = probe(
        described["known"], described["unseen"], known, probes=probes, fractions=fractions, seeds=seeds, name="raw",
        modalities=names,
    )  # fmt: skip
    if every_class:
        scores.add_macro_f1_of_all(rows)
    named = scores.by_modality(rows, first=probes[0], prefix=True)
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    conditions = scores.conditions(state, rows, draws, labelled, test, found)
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    state.sections.append(Section("Band statistics", "", [scores.table(named, conditions, found)]))
    return scores.summary(named, scores.main_metric(rows), found)


def _usable(system: str, tiles: TileDataset, model: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The modalities of the tiles that a model of the system can use; all of them where it does not say."""
    if system not in SYSTEMS:
        raise ValueError(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
    config = SYSTEMS[system].load("config")
    names: tuple[str, ...] = tuple(m.name for m in tiles.modalities)
    if hasattr(config, "usable"):
        names = config.usable(tiles.modalities, model)
    if not names:
        kinds = ", ".join(f"{m.name} ({m.kind})" for m in tiles.modalities)
        raise ValueError(f"step baseline: {system} can use none of the modalities of the data: {kinds}")
    return names


def _section(state: State, key: str) -> Section:
    """The section of the report for the baselines of ``key``, made at the first."""
    title = "Supervised baselines" if key == "baselines" else f"Supervised baselines: {key}"
    found = next((section for section in state.sections if section.title == title), None)
    if found is None:
        found = Section(title)
        state.sections.append(found)
    return found


def _joined(before: str | None, name: str, own: str) -> str:
    """The conditions of all rows: once if they are the same, else the later ones under the row's name."""
    if before is None or own == before:
        return own
    return f"{before} {name}: {own}"
