"""How any system is fine-tuned: a head on the summary of a tile, or one that labels its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics import classification, regression

from fusion.data import TileBatch
from fusion.data.given import words

from ..layers.schedules import plateau
from .conformal import ConformalInterval
from .dense import DenseHead, dense_head
from .systems import config_of

__all__ = ["Finetuning", "HeadName"]

Task = Literal["multilabel", "multiclass", "regression"]
HeadName = Literal["linear", "mlp", "patch", "decoder"]
_LEVEL = 0.9  # of an interval of a quantity


class Finetuning(L.LightningModule):
    """Trains a head on the summary of a tile, or on its patches, with the model or (``freeze``) on top of it.

    A frozen model stays in evaluation mode and is left out of the graph. Logs ``train/loss``, ``val/loss``
    (``test/...``) and ``f1_weighted``, ``f1_macro``, ``f1_micro``; for maps of classes ``miou``, ``f1_macro`` and
    ``accuracy`` over labelled pixels; for regression ``r2`` and ``rmse`` (in the unit of the targets).

    Args:
        model: pretrained, or fresh to train from scratch. ``model(batch)`` has a ``summary`` (B, D) and ``patches``
            (B, P, D), and ``model.config`` their width as ``dim``; for ``"decoder"`` it has ``pyramid``.
        task: ``"multilabel"`` (binary cross entropy), ``"multiclass"`` (cross entropy) or ``"regression"``
            (squared error of standardised targets).
        classes: names of the classes or of the targets.
        freeze: train the head only (linear probe).
        head: for labels of tiles ``"linear"``, or ``"mlp"``: layer norm, hidden layer of the model's width, GELU,
            linear. For maps ``"patch"`` or ``"decoder"``, see :mod:`fusion.training.dense`. None: linear, or for maps
            the decoder where the model has maps for one.
        lr: of Adam; ``patience``, ``factor``: of ReduceLROnPlateau on ``val/loss``.
        target_mean, target_std: of the regression targets in the training data; they are kept with the weights.
        label_shape: pixels (H, W) of a label map; empty for labels of tiles.
        ignore_index: class of pixels without label; in maps of a quantity they are NaN.
        class_weights: ``"none"``, or K numbers of 0 or more that the loss is weighed by, in training and in validation,
            for labels of tiles and of pixels. Of exclusive classes it is the mean over labels of weight times cross
            entropy: divided by the number of labels, not by the sum of weights, so a batch whose labels all have
            weight 0 has the loss 0. Of several classes a tile the weight is that of presence against absence.
            ``"balanced"`` needs the training labels: :func:`fusion.evaluation.finetune` makes numbers of it.
        interval_level: of quantities, the probability with which the interval of a map holds the true value;
            :func:`fusion.evaluation.finetune` computes it from the validation split once training has ended.
        intervals: of each quantity that interval, as :meth:`~fusion.training.conformal.ConformalInterval.to_dict` gives
            it; empty where there is none. They are kept with the weights.

    Attributes:
        intervals: a :class:`~fusion.training.conformal.ConformalInterval` for each quantity, or none.
    """

    target_mean: Tensor  # (K,)
    target_std: Tensor  # (K,)
    class_weights: Tensor | None  # (K,)

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        classes: Sequence[str],
        freeze: bool = False,
        head: HeadName | None = None,
        lr: float = 2e-4,
        patience: int = 10,
        factor: float = 0.1,
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
        label_shape: Sequence[int] = (),
        ignore_index: int = -1,
        class_weights: Literal["none", "balanced"] | Sequence[float] = "none",
        interval_level: float = _LEVEL,
        intervals: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__()
        if task not in ("multilabel", "multiclass", "regression"):
            raise ValueError(f"Finetuning: task is 'multilabel', 'multiclass' or 'regression', not {task!r}")
        classes = words(classes, "Finetuning: classes")
        target_mean, target_std = tuple(map(float, target_mean)), tuple(map(float, target_std))
        if not classes:
            raise ValueError("Finetuning: no class or target named")
        for field, values in (("target_mean", target_mean), ("target_std", target_std)):
            if len(values) not in (0, len(classes)):
                raise ValueError(f"Finetuning: {len(values)} {field} for {len(classes)} targets")
        dense = bool(label_shape)
        if dense and (task == "multilabel" or (task == "regression" and len(classes) > 1)):
            raise ValueError(f"Finetuning: a map holds one class or one quantity a pixel, not {task} of {classes}")
        if head is None:
            head = "linear" if not dense else "decoder" if hasattr(model, "pyramid") else "patch"
        heads = ("patch", "decoder") if dense else ("linear", "mlp")
        if head not in heads:
            kind = "maps" if dense else "of tiles"
            raise ValueError(f"Finetuning: head is '{heads[0]}' or '{heads[1]}', not {head!r}, where labels are {kind}")
        weights = _weights(class_weights, task, classes)
        known = _intervals(interval_level, intervals, task, classes)
        self.save_hyperparameters(ignore="model")
        self.model, self.task, self.classes, self.frozen = model, task, classes, freeze
        self.dense, self.ignore_index, self.intervals = dense, ignore_index, known
        self.head = _head(head, model, len(classes), label_shape)
        outputs = len(classes)
        self.register_buffer("target_mean", torch.tensor(target_mean or (0.0,) * outputs))
        self.register_buffer("target_std", torch.tensor(target_std or (1.0,) * outputs).clamp_min(1e-12))
        # Not among the saved tensors: checkpoints without weights stay complete, and the settings hold the numbers.
        self.register_buffer("class_weights", weights, persistent=False)
        model.requires_grad_(not freeze)
        metrics = _metrics(task, outputs, ignore_index if dense else None)
        self.metrics = nn.ModuleDict(
            {"validation": metrics.clone(prefix="val/"), "test": metrics.clone(prefix="test/")}
        )
        self.train()  # Lightning takes the modes it finds: a frozen model must be in evaluation from the start

    def forward(self, batch: TileBatch) -> Tensor:
        """(B, K) logits or predicted targets in their own unit; (B, K, H, W) for maps."""
        out = self._outputs(batch)
        return self._in_unit(out) if self.task == "regression" else out

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
            known: Any
            if isinstance(self.head, DenseHead):
                known = self.head.features(self.model, batch)
            else:
                known = self.model(batch).summary  # (B, D)
        return cast(Tensor, self.head(known))

    def _in_unit(self, out: Tensor) -> Tensor:
        """Standardised targets (B, K, ...) in the unit of the data."""
        axes = (-1, *(1,) * (out.ndim - 2))
        return out * self.target_std.view(axes) + self.target_mean.view(axes)

    def _loss(self, batch: TileBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Loss (), and outputs and labels of what is labelled: (n, K), or (n,) and (n,) of pixels of a quantity."""
        if batch.labels is None:
            raise ValueError(f"Finetuning: tile {batch.names[0]} and its batch have no labels")
        out, labels = self._outputs(batch).float(), batch.labels
        if self.dense:
            out = out.movedim(1, -1).flatten(0, -2)  # (B*H*W, K)
            labels = labels.flatten()
            labelled = labels.isfinite() if self.task == "regression" else labels != self.ignore_index
            if not labelled.any():  # beyond the border of what was mapped: nothing to learn, and no 0 / 0
                return out.sum() * 0, out[:0], labels[:0]
            out, labels = out[labelled], labels[labelled]
        if self.task == "multilabel":
            loss = F.binary_cross_entropy_with_logits(out, labels.float(), pos_weight=self.class_weights)
            return loss, out, labels
        if self.task == "multiclass":
            if self.class_weights is None:
                return F.cross_entropy(out, labels), out, labels
            loss = F.cross_entropy(out, labels, self.class_weights, reduction="sum") / len(labels)
            return loss, out, labels
        targets = labels.float().reshape(out.shape)
        return F.mse_loss(out, (targets - self.target_mean) / self.target_std), out, labels

    def _evaluate(self, batch: TileBatch, stage: Literal["val", "test"]) -> None:
        metrics = cast(torchmetrics.MetricCollection, self.metrics["validation" if stage == "val" else "test"])
        loss, out, labels = self._loss(batch)
        if not len(labels):
            return
        if self.task == "regression":
            predicted, wanted = self._in_unit(out), labels.float().reshape(out.shape)
            metrics.update(predicted.flatten() if self.dense else predicted, wanted.flatten() if self.dense else wanted)
        elif self.task == "multilabel":
            metrics.update(out.sigmoid(), labels.int())
        else:
            metrics.update(out, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(batch), prog_bar=stage == "val")
        self.log_dict(metrics, batch_size=len(batch), on_epoch=True)


def _head(name: HeadName, model: nn.Module, outputs: int, label_shape: Sequence[int]) -> nn.Module:
    width = config_of(model).dim
    if name in ("patch", "decoder"):
        height, columns = label_shape
        return dense_head(cast(Any, name), model, outputs, (height, columns))
    if name == "linear":
        return nn.Linear(width, outputs)
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))


def _weights(given: str | Sequence[float], task: Task, classes: Sequence[str]) -> Tensor | None:
    """(K,) the weights of the classes; None for ``"none"``."""
    if isinstance(given, str) and given == "none":
        return None
    if isinstance(given, str) and given == "balanced":
        raise ValueError(
            "Finetuning: class_weights='balanced' needs the training labels; fine-tune with fusion.evaluation.finetune "
            "or `fusion finetune`, or give the numbers of fusion.evaluation.class_weights.balanced_weights"
        )
    if task == "regression":
        raise ValueError(f"Finetuning: class_weights {given} for a quantity, which has no classes; leave them out")
    numbers = isinstance(given, list | tuple) and all(
        isinstance(w, int | float) and not isinstance(w, bool) and 0 <= w < float("inf") for w in given
    )
    if not numbers or len(given) != len(classes) or not any(given):
        raise ValueError(
            f"Finetuning: class_weights are 'none', 'balanced' or {len(classes)} numbers of 0 or more, one of "
            f"{', '.join(classes)} each and not all of them 0; not {given!r}"
        )
    return torch.tensor([float(weight) for weight in given])


def _intervals(
    level: float, saved: Sequence[Mapping[str, Any]], task: Task, classes: Sequence[str]
) -> tuple[ConformalInterval, ...]:
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"Finetuning: interval_level is between 0 and 1, e.g. 0.9, not {level!r}")
    if task != "regression" and (saved or level != _LEVEL):
        raise ValueError(
            f"Finetuning: an interval (interval_level {level}) is of a quantity, {', '.join(classes)} are classes; "
            "leave it out. How certain classes are is told by their probabilities"
        )
    if len(saved) not in (0, len(classes)):
        raise ValueError(f"Finetuning: {len(saved)} intervals for {len(classes)} quantities")
    return tuple(ConformalInterval.from_dict(one) for one in saved)


def _metrics(task: Task, outputs: int, ignore_index: int | None = None) -> torchmetrics.MetricCollection:
    """Of labels of tiles, or of pixels where there is an ``ignore_index``."""
    if task == "regression":
        return torchmetrics.MetricCollection(
            {"r2": regression.R2Score(), "rmse": regression.MeanSquaredError(squared=False)}
        )
    if ignore_index is not None:
        return torchmetrics.MetricCollection(
            {
                "miou": classification.MulticlassJaccardIndex(outputs),
                "f1_macro": classification.MulticlassF1Score(outputs, average="macro"),
                "accuracy": classification.MulticlassAccuracy(outputs, average="micro"),
            }
        )
    averages: tuple[Literal["weighted", "macro", "micro"], ...] = ("weighted", "macro", "micro")
    kind = classification.MultilabelF1Score if task == "multilabel" else classification.MulticlassF1Score
    return torchmetrics.MetricCollection({f"f1_{average}": kind(outputs, average=average) for average in averages})
