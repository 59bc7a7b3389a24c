"""Training on labels, as several steps do it: the runs, their scores, their losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..data import Augmentation, TileDataset, fit_statistics
from ..evaluation import Picture, Row
from ..evaluation import finetune as run
from ..settings import call
from . import figures, scores
from .state import State

__all__ = ["Start", "raw_control", "tune", "viewed"]

Start = Literal["pretrained", "frozen", "scratch"]


def tune(
    state: State,
    model: nn.Module,
    known: TileDataset,
    unseen: TileDataset,
    held_out: TileDataset | None,
    runs: Path,
    *,
    starts: Sequence[Start],
    fractions: Sequence[float],
    draws: int,
    rates: Mapping[str, float] | None,
    module: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
    augmentation: Mapping[str, Any] | None = None,
    members: int = 1,
    alone: bool = True,
    every_class: bool = False,
) -> tuple[list[Row], dict[str, dict[str, float]], list[Picture]]:
    """Trains on ``known`` in the folder ``runs`` and scores on ``unseen``, with all modalities and with each alone.

    Args:
        held_out: tiles that choose the best epoch; None holds out a fifth of the labels, in whole blocks of ground.
        module, training: arguments of the fine-tuning module and of :func:`fusion.training.fit`.
        augmentation: of what is trained on, see :class:`fusion.data.Augmentation`; None leaves it to the recipe.
        members: of an ensemble, see :func:`fusion.evaluation.finetune`.
        alone: whether to score with each modality alone.
        every_class: adds ``macro_f1_all``, see :func:`fusion.workflow.scores.add_macro_f1_of_all`.

    Returns:
        The rows, and by start the training loss of the first and last epoch of the first run and its curves.
    """
    from ..training import load_finetuned

    seeds = [state.seed + k for k in range(draws)]
    settings = {"progress": state.progress, "resume": not state.fresh} | dict(training or {})
    rows = run(
        model,
        known,
        unseen,
        runs,
        validation=held_out,
        starts=starts,
        fractions=fractions,
        seeds=seeds,
        rates=dict(rates or {}),
        settings=dict(module or {}),
        augmentation=call(Augmentation, augmentation, "augmentation") if augmentation else None,
        members=members,
        **settings,
    )
    for row in list(rows) if alone else ():  # of every single modality too
        best = load_finetuned(runs / f"{row.features}-{row.fraction:g}-{row.seed}")
        rows += scores.of_module(best, unseen, row.seed, row, together=False)
    if every_class:
        scores.add_macro_f1_of_all(rows)
    losses: dict[str, dict[str, float]] = {}
    logs: list[Picture] = []
    for start in starts:
        folder = runs / f"{start}-{fractions[-1]:g}-{seeds[0]}"
        log = (folder if members == 1 else folder / "member-0") / "metrics.csv"
        curve = scores.column(log, "train/loss")
        losses[start] = {"first": curve[0], "last": curve[-1]}
        logs.append(figures.losses(log, state, start))
    return rows, losses, logs


def raw_control(known: TileDataset, unseen: TileDataset, rows: Sequence[Row]) -> list[Row]:
    """The strongest simple method on raw values for every draw of labels that ``rows`` learned from."""
    from ..data import fraction as draw_labels
    from ..evaluation.raw_forest import raw_best

    everything = max((row.modalities for row in rows), key=len)
    draws = dict.fromkeys((row.fraction, row.seed) for row in rows)
    return [
        Row("raw", everything, part, seed, raw_best(known.subset(draw_labels(known, part, seed)), unseen, seed=seed))
        for part, seed in draws
    ]


def viewed(
    tiles: TileDataset, modalities: Sequence[str] | None, augmentation: Mapping[str, Any] | None = None
) -> TileDataset:
    """The tiles with only some modalities, and random views that are augmented."""
    tiles = tiles if modalities is None else tiles.with_modalities(modalities)
    if not augmentation:
        return tiles
    changes = call(Augmentation, augmentation, "augmentation")
    return tiles.with_augmentation(changes, fit_statistics(tiles, tiles=256) if changes.of_values else ())
