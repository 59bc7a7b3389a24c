"""Fine-tuning with few labels and many: pretrained, frozen and from scratch, over several draws of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import nn

from fusion.data import Augmentation, TileDataset
from fusion.data import fraction as draw_labels
from fusion.embed.blend import device_of
from fusion.settings import renamed
from fusion.training.checkpoints import load_finetuned, read_header
from fusion.training.loading import evaluation_loader, require_fit, unseen

from .calibration import calibrate
from .coverage import Coverage
from .dense import score_maps
from .metrics import confusion, per_class, score
from .probes import ProbeResult
from .protocol import Row
from .tuner import Start, Tuner, require_own

__all__ = ["finetune", "predict", "score_module"]

STARTS = get_args(Start)


@renamed(shares="fractions")
def finetune(
    pretrained: nn.Module | Path | str,
    train: TileDataset,
    test: TileDataset,
    run: Path | str,
    *,
    validation: TileDataset | None = None,
    starts: Sequence[Start] = ("pretrained", "frozen", "scratch"),
    fractions: Sequence[float] = (0.1, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    rates: dict[str, float] | None = None,
    settings: dict[str, Any] | None = None,
    augmentation: Augmentation | None = None,
    members: int = 1,
    **training: Any,
) -> list[Row]:
    """Trains a head, with the encoder or on top of it, once per start, fraction of labels and seed; scores on ``test``.

    Every run has its own folder, ``run/<start>-<fraction>-<seed>``, so an interrupted comparison goes on where it
    stopped. Without ``validation`` a fifth of the labelled tiles chooses the best epoch, whole blocks of ground where
    they are known (:func:`~fusion.evaluation.held_out.hold_out`): with few labels a large validation set would be a
    gift that nobody has. With fewer than 500 labelled tiles a fifth would choose by chance: where the learning rate
    falls to 0 on schedule, and no ``patience`` asks for more, all of them are trained on to the end.

    How it is trained is the recipe's, ``settings={"recipe": "paper"}`` or ``"default"``
    (:data:`fusion.training.recipes.RECIPES`): rates, what is augmented, and, where no ``epochs`` are given, as many as
    make enough steps.

    Of quantities the interval of every prediction is computed from ``validation`` once training has ended, and kept in
    the file of the best model (:func:`~fusion.evaluation.calibration.calibrate`); the scores say how often it holds on
    ``test``. Its level is ``interval_level`` of ``settings``.

    Args:
        pretrained: a model, a checkpoint or a run folder.
        starts: ``"pretrained"`` (all weights train), ``"frozen"`` (the head only), ``"scratch"`` (fresh weights).
        rates: learning rate by start (default: the recipe's).
        settings: go to the system's fine-tuning module, e.g. ``{"head": "mlp"}``; ``{"class_weights": "balanced"}``
            takes them from the labels of each draw that are trained on, see
            :func:`~fusion.evaluation.class_weights.balanced_weights`.
        augmentation: of what is trained on, ``Augmentation()`` for nothing; by default that of ``train``, or where it
            has none the recipe's.
        members: models that are trained of each start, fraction and seed, with seeds of their own and, where tiles are
            held out, other ones; they answer together
            (:class:`~fusion.training.ensemble.Ensemble`). Each has a folder ``member-<m>`` in that of the run.
        training: goes to :func:`fusion.training.fit`: ``epochs``, ``batch_size``, ``patience``, ``precision``, ...

    Raises:
        ValueError: data that do not fit the model, no labels, too few tiles to hold some out, an unknown start, no
            member, or a folder of a run with another number of members.
    """
    unknown = [start for start in [*starts, *(rates or {})] if start not in STARTS]
    if unknown:
        raise ValueError(f"finetune: start {', '.join(unknown)} unknown; there are {', '.join(STARTS)}")
    if members < 1:
        raise ValueError(f"finetune: members={members}; give 1 for a single model, or more for an ensemble")
    rows = []
    for fraction in fractions:
        for seed in seeds:
            chosen = train.subset(draw_labels(train, fraction, seed))
            for start in starts:
                folder = Path(run) / f"{start}-{fraction:g}-{seed}"
                require_own(folder, members)
                tuner = Tuner(pretrained, start, (rates or {}).get(start), settings or {}, augmentation, training)
                if members == 1:
                    best, notes = tuner.train(chosen, validation, folder, seed)
                else:
                    best, notes = tuner.ensemble(chosen, validation, folder, seed, members)
                kept = read_header(best).finetuned.get("interval_level")  # of a module that knows of intervals
                level = tuner.settings.get("interval_level", kept)  # the run may be one of another level
                missing = calibrate(best, validation, level) if level else ""
                result = score_module(load_finetuned(best), test, len(chosen))
                told = (*result.notes, *notes, *([missing] if missing else []))
                rows.append(Row(start, _names(train), fraction, seed, replace(result, notes=told)))
    return rows


def predict(
    module: nn.Module, dataset: TileDataset, *, batch_size: int = 32, workers: int = 0, blank: list[str] | None = None
) -> np.ndarray:
    """What a fine-tuned module says of every tile: class indices (N,), multi-hot (N, K) or targets (N, T).

    Of maps use :func:`fusion.evaluation.dense.predicted_maps`.

    Args:
        blank: is extended by the names of tiles without any observation.

    Raises:
        ValueError: the data do not fit the model.
    """
    require_fit(cast(nn.Module, module.model), dataset)
    device, training, rows = device_of(module), module.training, []
    module.eval()
    try:
        with torch.inference_mode():
            for batch in evaluation_loader(dataset, batch_size, workers=workers):
                if blank is not None:
                    blank += unseen(batch)
                rows.append(module(batch.to(device)).float().cpu().numpy())
    finally:
        module.train(training)
    output = np.concatenate(rows)  # (N, K)
    if module.task == "multiclass":
        return output.argmax(1)
    return (output > 0).astype(int) if module.task == "multilabel" else output


def score_module(module: nn.Module, test: TileDataset, labelled: int) -> ProbeResult:
    """Scores of a fine-tuned module on tiles, or on their pixels where labels are maps.

    Args:
        labelled: tiles it was trained with.

    Raises:
        ValueError: data that do not fit the model, or labels of another kind than it was trained with.
    """
    if bool(getattr(module, "dense", False)) != test.dense:
        kinds = ["of tiles", "maps"]
        raise ValueError(
            f"the model was fine-tuned on labels that are {kinds[not test.dense]}, the labels of these data are "
            f"{kinds[test.dense]}; give the reader the same kind"
        )
    blank: list[str] = []
    if test.dense:
        return _noted(score_maps(module, test, labelled, blank=blank), blank, test)
    prediction, target = predict(module, test, blank=blank), test.labels().numpy()
    if test.task == "regression":
        target = target.reshape(prediction.shape)
    task = str(test.task)
    scores, classes = score(task, target, prediction), per_class(task, target, prediction, test.classes)
    counts = confusion(task, target, prediction, len(test.classes))
    intervals = getattr(module, "intervals", ())
    coverage = Coverage.of(intervals, prediction, target) if intervals else None
    scores |= coverage.scores() if coverage else {}
    result = ProbeResult("finetune", scores, classes, target, prediction, labelled, confusion=counts, coverage=coverage)
    return _noted(result, blank, test)


def _noted(result: ProbeResult, blank: list[str], test: TileDataset) -> ProbeResult:
    """With a note of how many tiles had nothing to go by."""
    if not blank:
        return result
    told = (
        f"{len(blank)} of {len(test)} test tiles, e.g. {blank[0]}, have no observation of {', '.join(_names(test))}: "
        "what is said of them says nothing"
    )
    return replace(result, notes=(*result.notes, told))


def _names(dataset: TileDataset) -> tuple[str, ...]:
    return tuple(m.name for m in dataset.modalities)
