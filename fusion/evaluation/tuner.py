"""How one model is fine-tuned on labelled tiles, or several that answer together: what is held out, and its module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import nn

from fusion.data import Augmentation, TileDataset, fit_statistics
from fusion.data.spacing import evenly_spaced
from fusion.training.checkpoints import BEST, load_finetuned, load_model, read_header, save_model
from fusion.training.ensemble import Ensemble
from fusion.training.loading import require_fit
from fusion.training.recipes import RECIPES
from fusion.training.systems import SYSTEMS, config_of, reinitialised, system_of

from .budget import enough_epochs
from .class_weights import balanced_weights, class_shares
from .held_out import enough_to_choose_by, hold_out

if TYPE_CHECKING:
    from lightning import LightningModule

__all__ = ["Start", "Tuner", "augmented", "require_own"]

Start = Literal["pretrained", "frozen", "scratch"]
_MAPS = 256  # maps that mean and spread of a quantity are taken from
_APART = 1000  # from a member's seed to the next, so that they are not those of other draws


@dataclass(frozen=True)
class Tuner:
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
            told = f"all {len(chosen)} labels were trained on to the end: a fifth of them is too few to choose by"
        settings = self.settings
        notes: tuple[str, ...] = ()
        if settings.get("class_weights") == "balanced":
            weights, notes = balanced_weights(fitted)
            settings = settings | {"class_weights": weights}
        if fitted.task == "multiclass" and (not fitted.dense or settings.get("logit_adjustment")):
            settings = settings | {"class_shares": class_shares(fitted)}
        module = _module(self.pretrained, self.start, fitted, seed, self.rate, settings)
        changed = augmented(fitted, self.augmentation, module)
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


def require_own(folder: Path, members: int) -> None:
    """Refuses to mix runs of one model and of several."""
    single, several = (folder / "last.ckpt").is_file(), (folder / "member-0").is_dir()
    if (members > 1 and single) or (members == 1 and several):
        kinds = ["a single model", "an ensemble"]
        raise ValueError(
            f"finetune: {folder} is the run of {kinds[several]}, and members={members} asks for {kinds[members > 1]}; "
            "give another folder, or delete it"
        )


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


def augmented(fitted: TileDataset, asked: Augmentation | None, module: LightningModule) -> TileDataset:
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
