"""``fusion pretrain``: from data without labels to an encoder."""

from __future__ import annotations

import shlex
from typing import Any

__all__ = ["pretrain"]


def pretrain(
    *,
    data: str,
    out: str = "runs/pretrain",
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    modalities: list[str] | None = None,
    system: str = "omnisat",
    size: str = "tiny",
    model: dict[str, Any] | None = None,
    module: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    augmentation: dict[str, Any] | None = None,
    seed: int = 0,
) -> int:
    """Trains an encoder without labels. The same command goes on where an interrupted one stopped.

    Args:
        data: `landscape`, a folder of TreeSatAI-TS, PASTIS-HD or FLAIR, or a YAML file that describes one.
        out: run folder: models, metrics.csv, TensorBoard log, state to go on from.
        reader: options of the data's reader, e.g. --reader.max_dates 20 or --reader.cube biomassters.
        splits: which split of the data is train and val, e.g. --splits.train chip-a.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        system: which of the systems, e.g. omnisat.
        size: a named size of it, e.g. tiny, small, paper.
        model: what differs from that size, e.g. --model.depth 4.
        module: of the training objective, e.g. --module.lr 1e-3 or --module.mask_ratio 0.5.
        training: of the trainer, e.g. --training.epochs 50, batch_size, patience, precision, devices, workers.
        augmentation: of what is trained on, e.g. --augmentation.flips true, rotations, date_dropout.
        seed: of weights and batches.
    """
    from pathlib import Path

    from fusion.commands.session import begin
    from fusion.training.pretrain import train
    from fusion.workflow.tuning import viewed

    state = begin(data, Path(out), reader=reader, splits=splits, modalities=modalities, seed=seed, labelled=False)
    tiles = viewed(state.data.get("train", state.data["all"]), None, augmentation)
    print(f"{len(tiles)} tiles, {len(state.data['val']) if 'val' in state.data else 'no'} for validation")
    best = train(system, tiles, state.data.get("val"), Path(out), size, model, module, training, seed)
    run, again = shlex.quote(str(out)), shlex.quote(str(data))
    print(f"\n{best}\nnext: fusion probe {run} --data {again}   or   fusion embed {run} --data {again}")
    return 0
