"""That training changes a model at all: a loss that moves no parameter is noticed in the first steps."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from fusion.data import TileDataset

from .in_memory import FIRST, REMEDY, anything_moves

__all__ = ["FirstGradients", "check_trainable"]


def check_trainable(module: nn.Module) -> None:
    """Refuses a module of which training would change nothing.

    Raises:
        ValueError: none of its parameters requires a gradient.
    """
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(
            f"fit: no parameter of {type(module).__name__} requires a gradient, so training would change nothing; "
            "unfreeze a part of the model, or use it as it is"
        )


class FirstGradients(Callback):
    """Stops a training whose first three steps (or whole first epoch) leave every parameter as it is.

    Gradients are looked at until the first one that is not 0, which usually means in the first step alone.

    Args:
        train: the tiles, which the message describes.
    """

    def __init__(self, train: TileDataset) -> None:
        self.data = train
        self.moved, self.steps, self.loss = False, 0, float("nan")

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        if self.moved:
            return
        self.loss = float(loss.detach())
        if not loss.requires_grad:
            raise ValueError(self._message("the loss does not depend on any parameter"))

    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: Any) -> None:
        if self.moved:
            return
        self.steps += 1
        self.moved = anything_moves(module.parameters())
        if not self.moved and self.steps == FIRST:
            raise ValueError(self._message(f"the gradient of every parameter was 0 in the first {FIRST} steps"))

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.steps and not self.moved:
            raise ValueError(self._message("the gradient of every parameter was 0 in the first epoch"))

    def _message(self, found: str) -> str:
        rows, columns = self.data.grid
        names = ", ".join(m.name for m in self.data.modalities)
        return (
            f"fit: nothing would be learned: {found} (training loss {self.loss:g}). A tile has {rows} x {columns} "
            f"patches of {names}. {REMEDY}"
        )
