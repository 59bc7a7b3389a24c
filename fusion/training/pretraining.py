"""How a model that keeps its configuration is pretrained: by an objective of its own, without labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import lightning as L
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import config_of

__all__ = ["Pretraining"]

Model = TypeVar("Model", bound=nn.Module)
Objective = TypeVar("Objective", bound=Callable[..., Any])


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
