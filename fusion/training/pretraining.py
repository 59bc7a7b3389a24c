"""How a model that keeps its configuration is pretrained: by an objective of its own, without labels."""

from __future__ import annotations

import lightning as L
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import SystemConfig

__all__ = ["Pretraining"]


class Pretraining(L.LightningModule):
    """What the LightningModules of pretraining share: their hyper-parameters and the training step.

    A subclass sets ``model`` and ``objective`` (``objective(model, batch)`` has a ``total``), validates, and says how
    to optimise. The arguments of its ``__init__`` are kept as ``hparams``, ``config`` as plain types. Logs
    ``train/loss``.

    Args:
        config: of the model.
    """

    model: nn.Module
    objective: nn.Module

    def __init__(self, config: SystemConfig) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="config")  # Lightning finds the subclass's arguments too
        self.save_hyperparameters({"config": config.to_dict()})

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        loss: Tensor = self.objective(self.model, batch).total
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss
