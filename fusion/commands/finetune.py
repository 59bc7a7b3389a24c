"""``fusion finetune`` and ``fusion evaluate``: a model with a head for labels."""

from __future__ import annotations

from typing import Any, Literal

from fusion.settings import renamed

__all__ = ["evaluate", "finetune"]


@renamed(share="fraction")
def finetune(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    modalities: list[str] | None = None,
    fraction: float = 1.0,
    draws: int = 1,
    starts: list[Literal["pretrained", "frozen", "scratch"]] | None = None,
    rates: dict[str, float] | None = None,
    module: dict[str, Any] | None = None,
    training: dict[str, Any] | None = None,
    augmentation: dict[str, Any] | None = None,
    members: int = 1,
    control: bool = True,
    seed: int = 0,
) -> int:
    """Trains a pretrained encoder with a head on labels, and scores it on the test split with every modality.

    Labels that are maps are learned pixel by pixel; `fusion predict` then writes the map.

    Args:
        run: run folder or checkpoint of the encoder.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: folder of the runs, metrics.json and report.html, RUN/finetune by default.
        reader: options of the data's reader.
        splits: which split of the data is train, val and test.
        modalities: use only these, e.g. --modalities '[s2,s1]'.
        fraction: of the labels of the training split.
        draws: how often these labels are drawn.
        starts: of pretrained (all weights train), frozen (the head alone), scratch; pretrained by default.
        rates: learning rate of each start, e.g. --rates.pretrained 1e-4; by default the recipe's.
        module: of the fine-tuning, e.g. --module.recipe paper (or default), optimizer, schedule, dropout,
            label_smoothing, average; --module.head mlp or attention, or patch for maps, --module.features tokens;
            --module.class_weights balanced, --module.interval_level 0.8 for quantities.
        training: of the trainer, e.g. --training.epochs 30, batch_size, patience, precision; by default the recipe's
            number of steps.
        augmentation: of what is trained on, e.g. --augmentation.flips true, rotations, date_dropout, span_dropout,
            modality_dropout, gain, offset, shift_days; by default the recipe's.
        members: models to train, with other seeds and other tiles held out, whose mean is the answer; at as many times
            the cost, of maps too.
        control: also train simple methods on the raw values of the same labels, take the one that held-out blocks
            prefer, and say which is better.
        seed: of head, batches and draws.
    """
    from pathlib import Path

    from fusion.commands.following import command, lead_on
    from fusion.commands.session import begin, beside, finish
    from fusion.workflow import steps
    from fusion.workflow.options import check_finetuning

    source = Path(run)
    folder = beside(source, "finetune", out)
    check_finetuning(source, module, training, augmentation)
    state = begin(data, folder, reader=reader, splits=splits, modalities=modalities, model=source, seed=seed)
    steps.finetune(
        state,
        fractions=[fraction],
        draws=draws,
        starts=starts or ["pretrained"],
        rates=rates,
        module=module,
        training=training,
        augmentation=augmentation,
        members=members,
        validation="val" if "val" in state.data else None,
        folder=".",
        control=control,
    )
    finish(state, f"Fine-tuning of {run} on {data}")
    made = [folder / f"{start}-{fraction:g}-{seed}" for start in starts or ["pretrained"]]  # of the first draw
    tuned = folder if len(made) * draws == 1 else made[0]
    where: dict[str, Any] = {"data": data, "reader": reader, "modalities": modalities}
    lead_on(command("predict", tuned, **where, out="map.tif"), command("evaluate", tuned, data=data, reader=reader))
    return 0


def evaluate(
    run: str,
    *,
    data: str,
    out: str | None = None,
    reader: dict[str, Any] | None = None,
    splits: dict[str, str | None] | None = None,
    split: str = "test",
) -> int:
    """Scores a fine-tuned model, with all modalities and with each alone.

    Args:
        run: run folder or checkpoint of the fine-tuned model.
        data: a folder of images, or of TreeSatAI-TS, PASTIS-HD or FLAIR; a YAML that describes one; or `landscape`.
        out: folder of metrics.json and report.html, RUN/evaluate by default.
        reader: options of the data's reader.
        splits: which split of the data has which role, e.g. --splits.test chip-b.
        split: the tiles to score.
    """
    from pathlib import Path

    from fusion.commands.following import command, lead_on
    from fusion.commands.session import begin, beside, finish
    from fusion.training import read_header
    from fusion.workflow import steps

    source = Path(run)
    folder = beside(source, "evaluate", out)
    if read_header(source).system == "context":
        raise ValueError(
            f"{run}: pixels of cubes are scored where their probe is made; see its metrics.json, or make it again with "
            "`fusion probe RUN --data DATA --save linear --splits.test NAME`"
        )
    state = begin(data, folder, reader=reader, splits=splits, model=source)
    steps.evaluate(state, checkpoint=source, test=split)
    finish(state, f"Evaluation of {run} on {data}")
    lead_on(command("predict", run, data=data, reader=reader, out="map.tif"))
    return 0
