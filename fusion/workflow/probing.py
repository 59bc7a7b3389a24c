"""Probes that predict: a saved estimator on frozen embeddings, and the comparison where labels are maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

from ..data import TileDataset
from ..data import fraction as draw_labels
from ..evaluation import Picture, ProbeResult, Row, Section, Table, combinations, random_encoder
from ..evaluation.calibration import calibrate
from ..evaluation.estimators import Fitted, Kind
from ..evaluation.finetune import score_module
from ..evaluation.pools import AnyPool
from ..evaluation.raw_forest import raw_best
from ..evaluation.raw_patches import RawPatches
from ..evaluation.saved import make_probe
from ..training import Probed, load_finetuned, save_model
from . import figures, scores
from .kept import keep
from .state import State

__all__ = ["compare_maps", "probe_maps", "save_probe"]

LEVEL = 0.9  # of the interval of a quantity


def compare_maps(
    state: State,
    *,
    key: str = "probe",
    fraction: float = 0.1,
    draws: int = 1,
    probes: Sequence[Kind] = ("linear",),
    forest: bool = False,
    control: bool = False,
    model: str = "pretrained",
    labelled: str = "train",
    test: str = "test",
) -> str:
    """Probes of the patches of label maps: the frozen model, the same with random weights, and raw band statistics.

    An estimator learns what the labelled pixels of a patch say (the class of most of them, or the mean) and is scored
    on every labelled pixel of the test tiles. Rows and scores are named as by :func:`fusion.workflow.steps.compare`.

    Args:
        fraction, draws: of the labelled tiles.
        probes: ``linear``, ``forest``; ``forest=True`` adds one on raw statistics.
        control: add ``raw_best``, the strongest of several simple methods on raw values of pixels, and name it.
    """
    encoder = state.model(model)
    names = combinations(encoder, state.split(labelled))[-1]
    known, unseen = (state.split(name).with_modalities(names) for name in (labelled, test))
    seeds, rows = [state.seed + k for k in range(draws)], []
    for seed in seeds:
        rows += probe_maps(encoder, known, unseen, fraction, seed, probes=probes, forest=forest, control=control)
    named = scores.by_name(rows, first=probes[0], names={})
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    conditions = f"Features are of patches. {scores.conditions(state, rows, draws, labelled, test, found)}"
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    items: list[Picture | Table] = [scores.table(named, conditions, found)]
    items += figures.per_class(named, unseen, conditions)
    state.sections.append(Section(f"What {fraction:.0%} of the labels tell", "", items))
    return scores.summary(named, scores.main_metric(rows), found)


def probe_maps(
    encoder: nn.Module,
    known: TileDataset,
    unseen: TileDataset,
    fraction: float,
    seed: int,
    *,
    probes: Sequence[Kind],
    forest: bool = False,
    control: bool = False,
) -> list[Row]:
    """The rows of :func:`compare_maps` for one draw of labels."""
    names, rows = combinations(encoder, known)[-1], []
    train = known.subset(draw_labels(known, fraction, seed))
    controls = {"random": random_encoder(encoder, known, seed), "raw": RawPatches(encoder, known.modalities)}
    for name, one in ({"pretrained": encoder} | controls).items():
        extra: tuple[Kind, ...] = ("forest",) if name == "raw" and forest and "forest" not in probes else ()
        for kind in (*probes, *extra):
            probed, fitted = make_probe(kind, one, train, seed=seed)
            result = _scored(kind, probed, fitted, unseen, len(train))
            rows.append(Row(name, tuple(names), fraction, seed, result))
    if control:
        rows.append(Row("raw", tuple(names), fraction, seed, raw_best(train, unseen, seed=seed)))
    return rows


def save_probe(
    state: State,
    kind: Kind,
    *,
    key: str = "saved",
    fraction: float = 1.0,
    pool: AnyPool = "mean",
    model: str = "pretrained",
    labelled: str = "train",
    validation: str = "val",
    test: str = "test",
) -> Path:
    """Fits one estimator to frozen embeddings, scores it on the test tiles, and writes it with its encoder.

    Scores go to ``<key>.<kind>.<metric>``.

    Args:
        fraction: of the labelled tiles.
        pool: what stands for a tile; ``"auto"`` is what held-out blocks of the labelled tiles prefer.
        validation: split that the interval of a quantity is computed from; without it there is none.

    Returns:
        ``best.safetensors`` in the folder of results, for :func:`fusion.training.load_finetuned`.
    """
    encoder = state.model(model)
    names = combinations(encoder, state.split(labelled))[-1]
    known, unseen = (state.split(name).with_modalities(names) for name in (labelled, test))
    train = known.subset(draw_labels(known, fraction, state.seed))
    probed, fitted = make_probe(kind, encoder, train, pool=pool, seed=state.seed)
    path = save_model(state.out / "best.safetensors", encoder, finetuned=probed)
    held_out = state.split(validation).with_modalities(names) if validation in state.data else None
    missing = calibrate(path, held_out, LEVEL)
    probed = cast(Probed, load_finetuned(path))  # with the interval of a quantity
    result = _scored(kind, probed, fitted, unseen, len(train))
    notes = (*result.notes, *([missing] if missing else []))
    row = Row("saved", tuple(names), fraction, state.seed, replace(result, notes=notes))
    save_model(path, encoder, metrics=result.scores, finetuned=probed)
    named = {str(kind): [row]}
    found = scores.intervals(named, unseen, state.seed)
    keep(state, key, named, unseen)
    chosen = ", ".join(f"{name} {value}" for name, value in fitted.setting.items())
    held = scores.coverage(named, found)
    told = scores.conditions(state, [row], 1, labelled, test, found, [held] if held else [])
    conditions = f"{path}, {chosen}. {told}"
    state.metrics[key] = scores.as_metrics(named, found, unseen.classes) | {"conditions": conditions}
    items = [scores.table(named, conditions, found), *figures.per_class(named, unseen, conditions)]
    state.sections.append(Section("The probe that was saved", "", items))
    return path


def _scored(kind: str, probed: Probed, fitted: Fitted, unseen: TileDataset, tiles: int) -> ProbeResult:
    result = score_module(_on_its_device(probed), unseen, tiles)
    notes = (*result.notes, *fitted.notes)
    return replace(result, method=kind, setting=fitted.setting, notes=notes)


def _on_its_device(probed: Probed) -> nn.Module:
    """The estimator where the encoder is."""
    parameter = next(probed.parameters(), None)
    return probed if parameter is None else probed.to(parameter.device)
