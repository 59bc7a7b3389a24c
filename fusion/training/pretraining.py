"""How a model that keeps its configuration is pretrained: by an objective of its own, without labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import lightning as L
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import config_of

__all__ = ["Pretraining", "objective_settings"]

Model = TypeVar("Model", bound=nn.Module)
Objective = TypeVar("Objective", bound=Callable[..., Any])


def objective_settings(
    module: type, objectives: Mapping[str, Any], name: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Those of a module's settings that the objective ``name`` has; None leaves one to the objective.

    Args:
        module: the LightningModule, whose arguments have the defaults.
        objectives: classes by name.
        settings: arguments of ``module`` by name; those that no objective has are left out of account.

    Raises:
        ValueError: an unknown objective, or a setting of another one that is not at its default.
    """
    if name not in objectives:
        raise ValueError(f"{module.__name__}: objective is {' or '.join(map(repr, objectives))}, not {name!r}")
    own = inspect.signature(objectives[name]).parameters
    of_any = {key for one in objectives.values() for key in inspect.signature(one).parameters}
    defaults = inspect.signature(module).parameters
    given = {key: value for key, value in settings.items() if key in of_any and value is not None}
    strange = [key for key, value in given.items() if key not in own and value != defaults[key].default]
    if strange:
        others = " or ".join(repr(other) for other in objectives if other != name)
        raise ValueError(
            f"{module.__name__}: objective {name!r} has no {', '.join(strange)}; leave it out, or take objective "
            f"{others}"
        )
    return {key: value for key, value in given.items() if key in own}


class Pretraining(L.LightningModule, Generic[Model, Objective]):
    """What the LightningModules of pretraining share: their hyper-parameters and the training step.

    A subclass sets ``objective`` (``objective(model, batch)`` has a ``total``), validates, and says how to optimise.
    The arguments of its ``__init__`` are kept as ``hparams``, ``config`` as plain types. Logs ``train/loss``.

    Args:
        model: with its configuration as ``model.config``.
    """

    model: Model
    objective: Objective

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["config", "model"])  # Lightning finds the subclass's arguments too
        self.save_hyperparameters({"config": config_of(model).to_dict()})
        self.model = model

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        loss: Tensor = self.objective(self.model, batch).total
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss
