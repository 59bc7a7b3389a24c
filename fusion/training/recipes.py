"""How a model is fine-tuned, by name: optimizer, schedule and regularisation, and which weights decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from .vectors import Pool

__all__ = ["RECIPES", "TUNED", "Recipe", "parameter_groups", "recipe_settings"]

OptimizerName = Literal["adamw", "adam"]
ScheduleName = Literal["one-cycle", "plateau"]
RecipeName = Literal["default", "paper"]


@dataclass(frozen=True)
class Recipe:
    """What :class:`~fusion.training.finetuning.Finetuning` does where it is not told otherwise.

    Attributes:
        rates: learning rate of each start: the whole network from pretrained or fresh weights, or a head alone. Of the
            one-cycle schedule it is the highest.
        optimizer, weight_decay, schedule, warmup, patience, factor, dropout, label_smoothing, logit_adjustment,
            average, features: its arguments; None where the schedule has no use for one.
        steps: that training takes where no number of epochs is given; None leaves it to :func:`fusion.training.fit`.
        augmentation: of what is trained on, where nothing else is asked for: fields of
            :class:`~fusion.data.Augmentation`.
    """

    rates: Mapping[str, float]
    optimizer: OptimizerName
    weight_decay: float
    schedule: ScheduleName
    warmup: float | None
    patience: int | None
    factor: float | None
    dropout: float
    label_smoothing: float
    logit_adjustment: float
    average: float
    features: Pool
    steps: int | None
    augmentation: Mapping[str, float]


RECIPES: dict[str, Recipe] = {
    "default": Recipe(
        rates={"pretrained": 2e-3, "scratch": 2e-3, "frozen": 2e-3},
        optimizer="adamw",
        weight_decay=0.05,
        schedule="one-cycle",
        warmup=0.2,
        patience=None,
        factor=None,
        dropout=0.0,
        label_smoothing=0.0,
        logit_adjustment=1.0,
        average=0.99,
        features="summary",
        steps=1500,
        augmentation={"date_dropout": 0.2, "modality_dropout": 0.1, "gain": 0.1, "offset": 0.1},
    ),
    # Of OmniSat's published code (Astruc et al., arXiv 2404.08351).
    "paper": Recipe(
        rates={"pretrained": 2e-4, "scratch": 2e-4, "frozen": 2e-3},
        optimizer="adam",
        weight_decay=0.0,
        schedule="plateau",
        warmup=None,
        patience=10,
        factor=0.1,
        dropout=0.0,
        label_smoothing=0.0,
        logit_adjustment=0.0,
        average=0.0,
        features="summary",
        steps=None,
        augmentation={},
    ),
}
# What a fine-tuning module takes of a recipe.
TUNED = (
    "optimizer", "weight_decay", "schedule", "warmup", "patience", "factor", "dropout", "label_smoothing",
    "logit_adjustment", "average", "features",
)  # fmt: skip
_OF_SCHEDULE = {"warmup": "one-cycle", "patience": "plateau", "factor": "plateau"}
_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": ("adamw", "adam"),
    "schedule": ("one-cycle", "plateau"),
    "features": get_args(Pool),
}
_SHARES = ("warmup", "dropout", "label_smoothing", "average")  # in [0, 1)


def recipe_settings(name: str, given: Mapping[str, Any], task: str, dense: bool) -> dict[str, Any]:
    """The settings of the recipe ``name`` but for those that are ``given`` (not None), for labels of this kind.

    Label smoothing is of classes, logit adjustment of classes that exclude each other, and of maps only where it is
    given; features are chosen for labels of tiles: heads of maps have their own.

    Raises:
        ValueError: an unknown recipe or choice, a number that cannot be, or a setting without effect.
    """
    if name not in RECIPES:
        raise ValueError(f"Finetuning: recipe is {' or '.join(map(repr, RECIPES))}, not {name!r}")
    told = {key: value for key, value in given.items() if value is not None}
    settings = {key: value for key, value in asdict(RECIPES[name]).items() if key in TUNED}
    if task == "regression":
        settings["label_smoothing"] = 0.0
    if dense or task != "multiclass":
        settings["logit_adjustment"] = 0.0
    if dense:
        settings["features"] = None
    settings |= told
    if "weight_decay" not in told and settings["optimizer"] == "adam":
        settings["weight_decay"] = 0.0
    for key, values in _CHOICES.items():
        if settings[key] not in values and not (key == "features" and settings[key] is None):
            raise ValueError(f"Finetuning: {key} is {', '.join(map(repr, values))}, not {settings[key]!r}")
    for key, schedule in _OF_SCHEDULE.items():
        if settings["schedule"] != schedule:
            if key in told:
                raise ValueError(
                    f"Finetuning: {key}={told[key]} is of schedule={schedule!r}, and the schedule is "
                    f"{settings['schedule']!r}; leave one of them out"
                )
            settings[key] = None
        elif settings[key] is None:
            settings[key] = next(value for r in RECIPES.values() if (value := getattr(r, key)) is not None)
    for key in _SHARES:
        if settings[key] is not None and not 0 <= settings[key] < 1:
            raise ValueError(f"Finetuning: {key} is from 0 to below 1, not {settings[key]!r}")
    if settings["weight_decay"] < 0 or (settings["optimizer"] == "adam" and settings["weight_decay"]):
        raise ValueError(
            f"Finetuning: weight_decay is 0 or more and of optimizer='adamw', not {settings['weight_decay']!r} of "
            f"{settings['optimizer']!r}"
        )
    if not 0 <= settings["logit_adjustment"] <= 1 or (task != "multiclass" and settings["logit_adjustment"]):
        raise ValueError(
            "Finetuning: logit_adjustment is from 0 to 1 and of classes that exclude each other, not "
            f"{settings['logit_adjustment']!r} of {task} labels"
        )
    if task == "regression" and settings["label_smoothing"]:
        raise ValueError("Finetuning: label_smoothing is of classes, and the labels are quantities; leave it out")
    return settings


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """What is trained of a module, for AdamW: weights of linear layers and convolutions decay.

    Biases, normalisations, tables of positions and learned tokens have no scale to be drawn to zero from.
    """
    matrices = (nn.Linear, nn.modules.conv._ConvNd)
    decaying = {id(part.weight) for part in module.modules() if isinstance(part, matrices)}
    trained: list[torch.nn.Parameter] = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
