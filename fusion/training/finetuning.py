"""How any system is fine-tuned: a head on the summary of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import classification, regression

from fusion.data import TileBatch

from ..layers.schedules import plateau
from .systems import config_of

__all__ = ["Finetuning"]

Task = Literal["multilabel", "multiclass", "regression"]


class Finetuning(L.LightningModule):
    """Trains a head on the summary of a tile, with the model or (``freeze``) on top of it.

    A frozen model stays in evaluation mode and is left out of the graph. Logs ``train/loss``, ``val/loss``
    (``test/...``) and ``f1_weighted``, ``f1_macro``, ``f1_micro``, or for regression ``r2`` and ``rmse`` (in the
    unit of the targets).

    Args:
        model: pretrained, or fresh to train from scratch. ``model(batch)`` has a ``summary`` (B, D), and
            ``model.config`` its width as ``dim``.
        task: ``"multilabel"`` (binary cross entropy), ``"multiclass"`` (cross entropy) or ``"regression"``
            (squared error of standardised targets).
        classes: names of the classes or of the targets.
        freeze: train the head only (linear probe).
        head: ``"linear"``, or ``"mlp"``: layer norm, hidden layer of the model's width, GELU, linear.
        lr: of Adam; ``patience``, ``factor``: of ReduceLROnPlateau on ``val/loss``.
        target_mean, target_std: of the regression targets in the training data; they are kept with the weights.
    """

    target_mean: Tensor  # (K,)
    target_std: Tensor  # (K,)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        classes: Sequence[str],
        freeze: bool = False,
        head: Literal["linear", "mlp"] = "linear",
        lr: float = 2e-4,
        patience: int = 10,
        factor: float = 0.1,
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if task not in ("multilabel", "multiclass", "regression"):
            raise ValueError(f"Finetuning: task is 'multilabel', 'multiclass' or 'regression', not {task!r}")
        if not classes:
            raise ValueError("Finetuning: no class or target named")
        for field, values in (("target_mean", target_mean), ("target_std", target_std)):
            if len(values) not in (0, len(classes)):
                raise ValueError(f"Finetuning: {len(values)} {field} for {len(classes)} targets")
        self.save_hyperparameters(ignore="model")
        self.model, self.task, self.classes, self.frozen = model, task, tuple(classes), freeze
        width, outputs = config_of(model).dim, len(classes)
        if head == "linear":
            self.head: nn.Module = nn.Linear(width, outputs)
        elif head == "mlp":
            self.head = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)
            )
        else:
            raise ValueError(f"Finetuning: head is 'linear' or 'mlp', not {head!r}")
        self.register_buffer("target_mean", torch.tensor(target_mean or (0.0,) * outputs))
        self.register_buffer("target_std", torch.tensor(target_std or (1.0,) * outputs).clamp_min(1e-12))
        model.requires_grad_(not freeze)
        metrics = _metrics(task, outputs)
        self.metrics = nn.ModuleDict(
            {"validation": metrics.clone(prefix="val/"), "test": metrics.clone(prefix="test/")}
        )
        self.train()  # Lightning takes the modes it finds: a frozen model must be in evaluation from the start

    def forward(self, batch: TileBatch) -> Tensor:
        """(B, K) logits, or predicted targets in their own unit."""
        out = self._outputs(batch)
        return out * self.target_std + self.target_mean if self.task == "regression" else out

    def train(self, mode: bool = True) -> Finetuning:
        super().train(mode)
        if self.frozen:
            self.model.eval()
        return self

    def training_step(self, batch: TileBatch, index: int) -> Tensor:
        loss, _, _ = self._loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=len(batch), prog_bar=True)
        return loss

    def validation_step(self, batch: TileBatch, index: int) -> None:
        self._evaluate(batch, "val")

    def test_step(self, batch: TileBatch, index: int) -> None:
        self._evaluate(batch, "test")

    def predict_step(self, batch: TileBatch, index: int) -> Tensor:
        return cast(Tensor, self(batch))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.hparams["lr"])
        schedule: Any = plateau(optimizer, self.hparams["patience"], self.hparams["factor"])
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def _outputs(self, batch: TileBatch) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            summary = self.model(batch).summary  # (B, D)
        return cast(Tensor, self.head(summary))

    def _loss(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (), outputs (B, K) and labels of a batch."""
        if batch.labels is None:
            raise ValueError(f"Finetuning: tile {batch.names[0]} and its batch have no labels")
        out, labels = self._outputs(batch).float(), batch.labels
        if self.task == "multilabel":
            return F.binary_cross_entropy_with_logits(out, labels.float()), out, labels
        if self.task == "multiclass":
            return F.cross_entropy(out, labels), out, labels
        targets = labels.float().reshape(out.shape)
        return F.mse_loss(out, (targets - self.target_mean) / self.target_std), out, labels

    def _evaluate(self, batch: TileBatch, stage: Literal["val", "test"]) -> None:
        metrics = cast(torchmetrics.MetricCollection, self.metrics["validation" if stage == "val" else "test"])
        loss, out, labels = self._loss(batch)
        if self.task == "regression":
            metrics.update(out * self.target_std + self.target_mean, labels.float().reshape(out.shape))
        elif self.task == "multilabel":
            metrics.update(out.sigmoid(), labels.int())
        else:
            metrics.update(out, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(batch), prog_bar=stage == "val")
        self.log_dict(metrics, batch_size=len(batch), on_epoch=True)


def _metrics(task: Task, outputs: int) -> torchmetrics.MetricCollection:
    if task == "regression":
        return torchmetrics.MetricCollection(
            {"r2": regression.R2Score(), "rmse": regression.MeanSquaredError(squared=False)}
        )
    averages: tuple[Literal["weighted", "macro", "micro"], ...] = ("weighted", "macro", "micro")
    if task == "multilabel":
        return torchmetrics.MetricCollection(
            {f"f1_{average}": classification.MultilabelF1Score(outputs, average=average) for average in averages}
        )
    return torchmetrics.MetricCollection(
        {f"f1_{average}": classification.MulticlassF1Score(outputs, average=average) for average in averages}
    )
