"""``fusion pretrain``: from data without labels to an encoder."""

from __future__ import annotations

from pathlib import Path
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

    The context system takes the series of a described folder, trains an autoencoder for each sensor and then their
    fusion: --model.window, --model.sensors.NAME.FIELD, --model.fusion.FIELD, --training.samples are its own.

    Args:
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: run folder: models, metrics.csv, TensorBoard log, state to go on from.
        reader: options of the data's reader, e.g. --reader.max_dates 20 or --reader.cube biomassters.
        splits: which split of the data is train and val, e.g. --splits.train chip-a.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        system: omnisat, token-fusion or context.
        size: a named size of it, e.g. tiny, small, paper.
        model: what differs from that size, e.g. --model.depth 4.
        module: of the training objective, e.g. --module.lr 1e-3 or --module.mask_ratio 0.5.
        training: of the trainer, e.g. --training.epochs 50, batch_size, patience, precision, devices, workers.
        augmentation: of what is trained on, e.g. --augmentation.flips true, rotations, date_dropout.
        seed: of weights and batches.
    """
    from fusion.commands.following import command, lead_on
    from fusion.commands.map_pages import labelled
    from fusion.commands.session import begin
    from fusion.data import Augmentation
    from fusion.settings import accepted
    from fusion.training.pretrain import check_settings, train
    from fusion.workflow.tuning import viewed

    if system == "context":
        return _context(data, Path(out), reader, splits, modalities, size, model, module, training, augmentation, seed)
    check_settings(system, size, model, module, training)
    accepted(Augmentation, augmentation or {}, "augmentation")
    state = begin(data, Path(out), reader=reader, splits=splits, modalities=modalities, seed=seed, labelled=False)
    tiles = viewed(state.data.get("train", state.data["all"]), None, augmentation)
    print(f"{len(tiles)} tiles, {len(state.data['val']) if 'val' in state.data else 'none'} for validation")
    best = train(system, tiles, state.data.get("val"), Path(out), size, model, module, training, seed)
    print(f"\n{best}")
    where: dict[str, Any] = {"data": data, "reader": reader, "modalities": modalities}
    learning = ("probe", "finetune") if labelled(tiles) else ()
    lead_on(*(command(name, out, **where) for name in (*learning, "embed")))
    return 0


def _context(
    data: str,
    run: Path,
    reader: dict[str, Any] | None,
    splits: dict[str, str | None] | None,
    modalities: list[str] | None,
    size: str,
    model: dict[str, Any] | None,
    module: dict[str, Any] | None,
    training: dict[str, Any] | None,
    augmentation: dict[str, Any] | None,
    seed: int,
) -> int:
    """Both stages of the context-aware system, on whole cubes instead of tiles."""
    from fusion.commands.following import command, lead_on
    from fusion.context.pretraining import check_settings, pretrain_cubes
    from fusion.data import open_cubes

    for name, given in (("splits", splits), ("augmentation", augmentation)):
        if given:
            raise ValueError(
                f"--{name} {given}: the context system deals pieces of ground to training and validation itself and "
                "draws the dates of a window at random; leave it out"
            )
    check_settings(size, model, module, training)
    cubes = open_cubes(data, **(reader or {}))
    best = pretrain_cubes(
        cubes, run, size=size, modalities=modalities, model=model, module=module, training=training, seed=seed
    )
    print(f"\n{best}")
    lead_on(command("embed", run, data=data, reader=reader))
    return 0
