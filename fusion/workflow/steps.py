"""The steps an experiment is made of. Each takes the state and its settings, adds to the state, and says what it did.

A YAML names a step by the name of its function; its keyword arguments are the settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..evaluation import Picture, Section, Table
from ..evaluation.alignment import Align
from ..evaluation.pools import AnyPool
from ..settings import renamed
from ..training.pretrain import train
from . import figures, scores
from .baselines import baseline, statistics
from .comparison import against
from .curve import curve
from .kept import keep
from .probed_rows import probed_rows
from .state import State
from .tuning import Start, raw_control, tune, viewed

__all__ = [
    "STEPS",
    "baseline",
    "compare",
    "curve",
    "embed",
    "evaluate",
    "finetune",
    "modalities",
    "pretrain",
    "self_test",
    "statistics",
]


def self_test(state: State) -> str:
    """Every op in every backend of this machine against its float64 definition.

    Raises:
        RuntimeError: an op computes wrong numbers: nothing after it would mean anything.
    """
    from ..selftest import self_test as run

    outcomes = list(run())
    wrong = [str(outcome) for outcome in outcomes if not outcome.passed]
    if wrong:
        raise RuntimeError("\n".join(["ops that compute wrong numbers here (see fusion doctor):", *wrong]))
    backends = ", ".join(dict.fromkeys(f"{outcome.backend} on {outcome.device}" for outcome in outcomes))
    worst = max(outcome.error for outcome in outcomes)
    return f"{len(outcomes)} of {len(outcomes)} checks of the ops passed ({backends}), max error {worst:.0e}"


def pretrain(
    state: State,
    *,
    system: str = "omnisat",
    size: str = "tiny",
    model: Mapping[str, Any] | None = None,
    module: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    modalities: Sequence[str] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    reader: Mapping[str, Any] | None = None,
    tiles: str = "train",
    validation: str | None = "val",
    choose: Literal["best", "last"] = "best",
    folder: str = "pretrain",
) -> str:
    """Trains a new model without labels; later steps know it as ``pretrained``.

    Args:
        size, model: a named size of the system, and what differs from it.
        module: arguments of the system's pretraining LightningModule.
        training: arguments of :func:`fusion.training.fit`.
        modalities: only these.
        augmentation: of what is trained on, see :class:`fusion.data.Augmentation`.
        reader: options with which the data are read for this step.
        tiles, validation: splits; a validation split that the data does not have is done without.
        choose: the model of the best epoch by validation loss, or of the last.
        folder: of the run, from the folder of results. Experiments that name the same one share the model: the first
            trains it.
    """
    from ..training import load_model

    state = state.reopened(reader)
    unlabelled = viewed(state.split(tiles), modalities, augmentation)
    held_out = viewed(state.split(validation), modalities) if validation in state.data else None
    run = state.run_folder(folder)
    settings = {"progress": state.progress, "resume": not state.fresh} | dict(training or {})
    best = train(system, unlabelled, held_out, run, size, model, module, settings, state.seed)
    state.models["pretrained"] = trained = load_model(best.with_name(f"{choose}.safetensors"))
    parameters = sum(p.numel() for p in trained.parameters())
    monitored = "train/loss" if held_out is None else "val/loss"
    curve = scores.column(run / "metrics.csv", monitored)
    loss = {"first": curve[0], "last": curve[-1]}
    state.metrics["pretrain"] = {"parameters": parameters, "epochs": len(curve), "loss": loss}
    what = f"{system} {size}, {parameters / 1e6:.2f} M parameters, {len(unlabelled)} tiles, {len(curve)} epochs"
    state.appendix.append(Section("Pretraining", f"{what}.", [figures.losses(run / "metrics.csv", state)]))
    return f"{what}, {monitored} {curve[0]:.2f} -> {curve[-1]:.2f}"


@renamed(share="fraction")
def compare(
    state: State,
    *,
    key: str = "probe",
    fraction: float = 0.1,
    draws: int = 5,
    probes: Sequence[str] = ("linear",),
    forest: bool = False,
    control: bool = False,
    pool: AnyPool = "mean",
    names: Mapping[str, str] | None = None,
    model: str = "pretrained",
    labelled: str = "train",
    test: str = "test",
    metric: str | None = None,
    align: Align = "auto",
) -> str:
    """Probes the frozen model, the same architecture with random weights, and raw band statistics, with few labels.

    All rows have the same labels, draw by draw, and the same probe; the random encoder is another one in each draw.

    Args:
        key: of the scores in ``metrics.json``: ``<key>.<row>.<metric>``, with rows ``pretrained``, ``random``, ``raw``,
            and ``<features>_<probe>`` for every probe but the first.
        fraction, draws: of the labels: how many of them, and how often they are drawn anew.
        probes: ``linear`` (logistic or ridge regression), ``knn``, ``forest``; ``forest=True`` adds one on raw bands.
        pool: what stands for a tile, see :func:`fusion.evaluation.extract`; ``"auto"`` is what held-out blocks of the
            labelled tiles prefer, draw by draw, of the random encoder too.
        control: add ``raw_best``, the strongest of several simple methods on raw values, and name it.
        names: other names for rows, e.g. ``{"raw": "raw_ridge"}``.
        metric: the one to show; by default macro F1, or R2.
        align: whether features of other scenes are made comparable, see
            :func:`fusion.evaluation.alignment.aligned`; ``"auto"`` where no scene is in both splits.
    """
    unseen = state.split(test)
    rows = probed_rows(
        state, model, labelled, test, [fraction], draws, probes=list(probes), forest=forest, control=control, pool=pool,
        align=align,
    )  # fmt: skip
    named = scores.by_name(rows, first=probes[0], names=names or {})
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    conditions = scores.pooled(pool, rows) + scores.conditions(state, rows, draws, labelled, test, found)
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    items: list[Picture | Table] = [scores.table(named, conditions, found)]
    items += figures.per_class(named, unseen, conditions)
    state.sections.append(Section(f"What {fraction:.0%} of the labels tell", "", items))
    return scores.summary(named, metric or scores.main_metric(rows), found)


@renamed(share="fraction")
def modalities(
    state: State,
    *,
    key: str = "modalities",
    fraction: float = 1.0,
    draws: int = 1,
    probes: Sequence[str] = ("linear", "knn"),
    pool: AnyPool = "mean",
    model: str = "pretrained",
    labelled: str = "train",
    test: str = "test",
    align: Align = "auto",
) -> str:
    """Probes the frozen model with every modality alone and with all together.

    Scores go to ``<key>.<modality>.<metric>``, ``<key>.all.<metric>``, with ``_<probe>`` for every probe but the first.
    """
    from ..evaluation import evaluate
    from ..evaluation.plots import modality_bars

    seeds = [state.seed + k for k in range(draws)]
    splits = state.split(labelled), state.split(test)
    how: dict[str, Any] = {"probes": probes, "fractions": [fraction], "seeds": seeds, "pool": pool, "align": align}
    rows = evaluate(state.model(model), *splits, **how)
    named = scores.by_modality(rows, first=probes[0])
    found = scores.intervals(named, splits[1], state.seed)
    keep(state, key, named, splits[1])
    conditions = scores.pooled(pool, rows) + scores.conditions(state, rows, draws, labelled, test, found)
    state.metrics[key] = scores.as_metrics(named, found, splits[1].classes) | {"conditions": conditions}
    metric = scores.main_metric(rows)
    items: list[Picture | Table] = [scores.table(named, conditions, found), modality_bars(rows, metric, conditions)]
    state.sections.append(Section("Every modality alone and all together", "", items))
    return scores.summary(named, metric, found)


@renamed(shares="fractions")
def finetune(
    state: State,
    *,
    key: str = "finetune",
    model: str = "pretrained",
    starts: Sequence[Start] = ("pretrained", "scratch"),
    fractions: Sequence[float] = (1.0,),
    draws: int = 1,
    rates: Mapping[str, float] | None = None,
    module: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    modalities: Sequence[str] | None = None,
    augmentation: Mapping[str, Any] | None = None,
    reader: Mapping[str, Any] | None = None,
    members: int = 1,
    labelled: str = "train",
    validation: str | None = None,
    test: str = "test",
    folder: str | None = None,
    alone: bool = True,
    every_class: bool = False,
    control: bool = False,
) -> str:
    """Trains the whole model (or a head alone) on labels, from pretrained and from fresh weights.

    Scores go to ``<key>.<start>.<metric>``, of every modality alone too: ``<key>.<start>_<modality>.<metric>``; the
    training loss of the first and last epoch of the first run to ``<key>_loss.<start>``. With several fractions their
    percentage follows the name of a row: ``<key>.<start>_10.<metric>``.

    Args:
        starts: ``pretrained``, ``frozen`` (head only), ``scratch``.
        module: arguments of the fine-tuning module: its ``recipe`` and what differs from that.
        training: arguments of :func:`fusion.training.fit`; without ``epochs`` as many as the recipe wants.
        modalities: only these are given to the model.
        augmentation: of what is trained on, see :class:`fusion.data.Augmentation`; by default the recipe's.
        reader: options with which the data are read for this step, e.g. ``{labels: map}``.
        members: models that are trained of each start, fraction and draw, and answer together.
        validation: split that chooses the best epoch; None holds out a fifth of the labels, in whole
            blocks of ground where they are known.
        folder: of the runs, within the results; ``key`` by default. A run is ``<start>-<fraction>-<seed>``.
        alone: score the trained models with each modality alone, too.
        every_class: also give macro F1 over all classes (``macro_f1_all``), 0 for those that never occur.
        control: add ``raw_best``, the strongest of several simple methods on raw values that learn from the same
            labels (:func:`fusion.evaluation.raw_forest.raw_best`), name it, and say which is better.
    """
    state = state.reopened(reader)
    held_out = None if validation is None else viewed(state.split(validation), modalities)
    known, unknown = viewed(state.split(labelled), modalities), viewed(state.split(test), modalities)
    rows, losses, logs = tune(
        state,
        state.model(model),
        known,
        unknown,
        held_out,
        state.run_folder(folder or key),
        starts=starts,
        fractions=fractions,
        draws=draws,
        rates=rates,
        module=module,
        training=training,
        augmentation=augmentation,
        members=members,
        alone=alone,
        every_class=every_class,
    )
    if control:
        rows += raw_control(known, unknown, rows)
    named, unseen = scores.by_modality(rows, first="finetune", prefix=True), state.split(test)
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    held = scores.coverage(named, found)
    conditions = scores.conditions(state, rows, draws, labelled, test, found, [held] if held else [])
    if control:
        conditions += " " + " ".join(against(named, found, "raw_best", "the strongest control on raw values"))
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    state.metrics[f"{key}_loss"] = losses
    items: list[Picture | Table] = [scores.table(named, conditions, found)]
    items += figures.per_class(named, unseen, conditions) if unseen.dense else []
    title = "Fine-tuning" if key == "finetune" else f"Fine-tuning: {key}"
    state.sections.append(Section(title, "", [*items, *logs]))
    return scores.summary(named, scores.main_metric(rows), found)


def evaluate(state: State, *, checkpoint: str | Path, key: str = "evaluate", test: str = "test") -> str:
    """Scores a fine-tuned model with all modalities and with each alone: ``<key>.all.<metric>``, ``<key>.<modality>``.

    Args:
        checkpoint: file or run folder of the fine-tuned model.
    """
    from ..training import load_finetuned

    module, unseen = load_finetuned(checkpoint), state.split(test)
    rows = scores.of_module(module, unseen, state.seed)
    named = scores.by_modality(rows, first="finetune")
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    notes = dict.fromkeys(one.note for one in found.values())
    scored = f"{checkpoint}, scored on the {len(unseen)} tiles of split {test!r}."
    conditions = " ".join(part for part in (scored, scores.coverage(named, found), *notes) if part)
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    items = [scores.table(named, conditions, found), *figures.per_class(named, unseen, conditions)]
    state.sections.append(Section("Scores", "", items))
    return scores.summary(named, scores.main_metric(rows), found)


def embed(
    state: State,
    *,
    model: str = "pretrained",
    tiles: str = "all",
    file: str = "embeddings.tif",
    dtype: Literal["float32", "int8"] = "float32",
) -> str:
    """Writes the embeddings of every patch as a map, and shows it beside true colour and labels."""
    from ..embed import embed_map

    dataset = state.split(tiles)
    maps = embed_map(state.model(model), dataset, state.out / file, dtype=dtype)
    within = [replace(written, path=written.path.relative_to(state.out)) for written in maps]
    text = "\n\n".join(str(written) for written in within[:3])
    picture = figures.embedding(state.model(model), dataset, state)
    state.sections.append(Section("The map", text, [picture]))
    state.metrics["embed"] = {
        "files": [str(written.path) for written in within],
        "mean_cosine": min(written.error.mean_cosine for written in maps),
    }
    return str(maps[0]).replace("\n ", ";") + (f" and {len(maps) - 1} more" if len(maps) > 1 else "")


_ALL = (self_test, pretrain, compare, modalities, finetune, curve, baseline, statistics, evaluate, embed)
STEPS: dict[str, Callable[..., str]] = {step.__name__: step for step in _ALL}
