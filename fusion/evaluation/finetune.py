"""Fine-tuning with few labels and many: pretrained, frozen and from scratch, over several draws of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from torch import nn

from fusion.data import Augmentation, TileDataset, fit_statistics
from fusion.data import fraction as draw_labels
from fusion.data.spacing import evenly_spaced
from fusion.embed.blend import device_of
from fusion.settings import renamed
from fusion.training.checkpoints import BEST, load_finetuned, load_model, read_header, save_model
from fusion.training.ensemble import Ensemble
from fusion.training.loading import evaluation_loader, require_fit, unseen
from fusion.training.recipes import RECIPES
from fusion.training.systems import SYSTEMS, config_of, reinitialised, system_of

from .budget import enough_epochs
from .calibration import calibrate
from .class_weights import balanced_weights
from .coverage import Coverage
from .dense import score_maps
from .held_out import enough_to_choose_by, hold_out
from .metrics import confusion, per_class, score
from .probes import ProbeResult
from .protocol import Row

if TYPE_CHECKING:
    from lightning import LightningModule

__all__ = ["finetune", "predict", "score_module"]

Start = Literal["pretrained", "frozen", "scratch"]
STARTS = get_args(Start)
_APART = 1000  # from a member's seed to the next, so that they are not those of other draws
_MAPS = 256  # maps that mean and spread of a quantity are taken from


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
                _require_own(folder, members)
                how = _How(pretrained, start, (rates or {}).get(start), settings or {}, augmentation, training)
                if members == 1:
                    best, notes = how.train(chosen, validation, folder, seed)
                else:
                    best, notes = how.ensemble(chosen, validation, folder, seed, members)
                kept = read_header(best).finetuned.get("interval_level")  # of a module that knows of intervals
                level = how.settings.get("interval_level", kept)  # the run may be one of another level
                missing = calibrate(best, validation, level) if level else ""
                result = score_module(load_finetuned(best), test, len(chosen))
                told = (*result.notes, *notes, *([missing] if missing else []))
                rows.append(Row(start, _names(train), fraction, seed, replace(result, notes=told)))
    return rows


@dataclass(frozen=True)
class _How:
    """How models of one start are trained; see :func:`finetune`."""

    pretrained: nn.Module | Path | str
    start: Start
    rate: float | None
    settings: dict[str, Any]
    augmentation: Augmentation | None
    training: dict[str, Any]

    def train(
        self, chosen: TileDataset, validation: TileDataset | None, folder: Path, seed: int
    ) -> tuple[Path, tuple[str, ...]]:
        """The file of the best epoch, and what a reader must know."""
        from fusion.training import fit

        fitted, held_out, told = chosen, validation, ""
        if validation is None and (enough_to_choose_by(chosen) or not self._runs_its_course):
            fitted, held_out, told = hold_out(chosen, seed)
        elif validation is None:
            told = f"trained on all {len(chosen)} labelled tiles to the end: a fifth of them is too few to choose by"
        settings = self.settings
        notes: tuple[str, ...] = ()
        if settings.get("class_weights") == "balanced":
            weights, notes = balanced_weights(fitted)
            settings = settings | {"class_weights": weights}
        module = _module(self.pretrained, self.start, fitted, seed, self.rate, settings)
        changed = _augmented(fitted, self.augmentation, module)
        best = fit(module, changed, held_out, folder, seed=seed, **enough_epochs(module, fitted, self.training))
        return best, (*notes, *([told] if told else []))

    @property
    def _runs_its_course(self) -> bool:
        """Whether the last epoch is meant to be the best: the learning rate falls to 0 on schedule."""
        recipe = RECIPES.get(_recipe(self._kind, self.settings))
        schedule = self.settings.get("schedule") or (recipe.schedule if recipe else None)
        return schedule == "one-cycle" and self.training.get("patience") is None

    @property
    def _kind(self) -> Any:
        given = self.pretrained
        name = system_of(given) if isinstance(given, nn.Module) else read_header(given).system
        return SYSTEMS[name].load("finetuning")

    def ensemble(
        self, chosen: TileDataset, validation: TileDataset | None, folder: Path, seed: int, members: int
    ) -> tuple[Path, tuple[str, ...]]:
        """The same of several models in one file."""
        found = [self.train(chosen, validation, folder / f"member-{m}", seed + m * _APART) for m in range(members)]
        together = Ensemble([load_finetuned(best) for best, _ in found])
        scores = [read_header(best).metrics for best, _ in found]
        metrics = {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}
        file = save_model(folder / BEST, together.model, metrics=metrics, finetuned=together)
        return file, tuple(dict.fromkeys(note for _, notes in found for note in notes))


def _require_own(folder: Path, members: int) -> None:
    """Refuses to mix runs of one model and of several."""
    single, several = (folder / "last.ckpt").is_file(), (folder / "member-0").is_dir()
    if (members > 1 and single) or (members == 1 and several):
        kinds = ["a single model", "an ensemble"]
        raise ValueError(
            f"finetune: {folder} is the run of {kinds[several]}, and members={members} asks for {kinds[members > 1]}; "
            "give another folder, or delete it"
        )


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


def _module(
    pretrained: nn.Module | Path | str,
    start: str,
    labelled: TileDataset,
    seed: int,
    rate: float | None,
    settings: dict[str, Any],
) -> LightningModule:
    model = pretrained if isinstance(pretrained, nn.Module) else load_model(pretrained)
    require_fit(model, labelled)
    system = SYSTEMS[system_of(model)]
    torch.manual_seed(seed)
    fresh = reinitialised(model)
    if start != "scratch":
        fresh.load_state_dict(model.state_dict())
    if labelled.task == "regression":
        targets = _targets(labelled)
        settings = settings | {"target_mean": targets.mean(0).tolist(), "target_std": _spread(targets).tolist()}
    if labelled.dense:
        settings = settings | {"label_shape": labelled.label_shape, "ignore_index": labelled.ignore_index}
    kind = system.load("finetuning")
    recipe = _recipe(kind, settings)
    if rate is None and recipe in RECIPES:
        rate = RECIPES[recipe].rates[start]
    module: LightningModule = kind(
        fresh, labelled.task, labelled.classes, freeze=start == "frozen", lr=rate, **settings
    )
    return module


def _recipe(kind: Any, settings: Mapping[str, Any]) -> str:
    """By name, of a fine-tuning module; one that knows of no recipes does what the paper's did."""
    return str(settings.get("recipe", "default" if hasattr(kind, "with_former_settings") else "paper"))


def _augmented(fitted: TileDataset, asked: Augmentation | None, module: LightningModule) -> TileDataset:
    """Tiles to train on, changed as is asked for, as they are already, or as the recipe of the module says."""
    recipe = RECIPES.get(module.hparams.get("recipe", ""))
    if asked is None and recipe is not None and fitted.augmentation.nothing:
        asked = Augmentation(**cast(Any, recipe.augmentation))
    if asked is None:
        return fitted
    known = config_of(module.get_submodule("model")).modalities
    if asked.of_values and not all(m.mean and m.std for m in known):
        known = fit_statistics(fitted, tiles=256)
    return fitted.with_augmentation(asked, known)


def _targets(labelled: TileDataset) -> torch.Tensor:
    """(n, T) what there is to predict: of tiles, or of the labelled pixels of some of their maps."""
    if not labelled.dense:
        return labelled.labels().double().reshape(len(labelled), -1)
    some = labelled.subset(evenly_spaced(len(labelled), _MAPS)).labels().double().flatten()
    known = some[some.isfinite()]
    if not len(known):
        raise ValueError(f"finetune: no pixel of {len(labelled)} tiles, e.g. {labelled.names[0]}, is labelled")
    return known[:, None]


def _spread(targets: torch.Tensor) -> torch.Tensor:
    spread = targets.std(0) if len(targets) > 1 else torch.zeros(targets.shape[1])
    return torch.where(spread > 0, spread, torch.ones_like(spread))


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
