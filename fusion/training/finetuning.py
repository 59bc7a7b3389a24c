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

from fusion.data import TileBatch
from fusion.data.given import words

from ..layers.schedules import plateau, warmup_cosine
from .averaging import WeightAverage
from .dense import DenseHead, dense_head
from .heads import tile_head
from .label_settings import LEVEL, Task, label_metrics, log_class_shares, require_labels, saved_intervals
from .label_settings import class_weights as weights_of
from .recipes import RECIPES, TUNED, OptimizerName, RecipeName, ScheduleName, parameter_groups, recipe_settings
from .vectors import Pool

__all__ = ["Finetuning", "HeadName"]

HeadName = Literal["linear", "mlp", "attention", "patch", "decoder"]
_OF_TILES, _OF_MAPS = ("linear", "mlp", "attention"), ("patch", "decoder")


class Finetuning(L.LightningModule):
    """Trains a head on the summary of a tile, or on its patches, with the model or (``freeze``) on top of it.

    A frozen model stays in evaluation mode and is left out of the graph. Logs ``train/loss``, ``val/loss``
    (``test/...``) and ``f1_weighted``, ``f1_macro``, ``f1_micro``; for maps of classes ``miou``, ``f1_macro`` and
    ``accuracy`` over labelled pixels; for regression ``r2`` and ``rmse`` (in the unit of the targets).

    What is not given is the recipe's (:data:`~fusion.training.recipes.RECIPES`): ``"default"``, chosen on validation
    pixels of real series (docs/omnisat.md), or ``"paper"``, that of OmniSat's published code. ``hparams`` hold what
    was taken. Files and runs from before there were recipes are of ``"paper"``.

    Args:
        model: pretrained, or fresh to train from scratch. ``model(batch)`` has a ``summary`` (B, D) and ``patches``
            (B, P, D), and ``model.config`` their width as ``dim``; for ``"decoder"`` it has ``pyramid``.
        task: ``"multilabel"`` (binary cross entropy), ``"multiclass"`` (cross entropy) or ``"regression"``
            (squared error of standardised targets).
        classes: names of the classes or of the targets.
        freeze: train the head only (linear probe).
        head: for labels of tiles ``"linear"``, ``"mlp"`` or ``"attention"``, see :mod:`fusion.training.heads`. For maps
            ``"patch"`` or ``"decoder"``, see :mod:`fusion.training.dense`. None: linear, or for maps the decoder where
            the model has maps for one.
        lr: learning rate, of the one-cycle schedule the highest.
        target_mean, target_std: of the regression targets in the training data; they are kept with the weights.
        label_shape: pixels (H, W) of a label map; empty for labels of tiles.
        ignore_index: class of pixels without label; in maps of a quantity they are NaN.
        class_weights: ``"none"``, or K numbers of 0 or more that the loss is weighed by, in training and in validation,
            for labels of tiles and of pixels. Of exclusive classes it is the mean over labels of weight times cross
            entropy: divided by the number of labels, not by the sum of weights, so a batch whose labels all have
            weight 0 has the loss 0. Of several classes a tile the weight is that of presence against absence.
            ``"balanced"`` needs the training labels: :func:`fusion.evaluation.finetune` makes numbers of it.
        class_shares: share of each class among the labels that are trained on, for ``logit_adjustment``;
            :func:`fusion.evaluation.finetune` counts them. Without them nothing is adjusted.
        interval_level: of quantities, the probability with which the interval of a map holds the true value;
            :func:`fusion.evaluation.finetune` computes it from the validation split once training has ended.
        intervals: of each quantity that interval, as :meth:`~fusion.training.conformal.ConformalInterval.to_dict` gives
            it; empty where there is none. They are kept with the weights.
        recipe: ``"default"`` or ``"paper"``.
        optimizer: ``"adamw"``, whose ``weight_decay`` spares biases, norms, position tables and learned tokens, or
            ``"adam"``.
        schedule: ``"one-cycle"``: the learning rate rises over the share ``warmup`` of all steps and falls to 0 along a
            cosine; or ``"plateau"``: times ``factor`` whenever ``val/loss`` has not improved for ``patience`` epochs.
        dropout: of what the head is given.
        label_smoothing: share of a label that all classes have alike, in training only: of ``s`` the right one of K
            exclusive classes is 1 - s + s / K and another s / K; of several classes a tile, 1 - s / 2 and s / 2.
        logit_adjustment: in the loss, so much of the log of a class's share is added to its logit (Menon et al. 2021,
            arXiv 2007.07314), so that the logits themselves do without it: with 1 they answer as if all classes were
            equally frequent, as macro F1 counts them, with 0 by how often each occurs. Of exclusive classes; of maps,
            and beside ``class_weights``, only where it is given.
        average: decay of a moving average of the weights over steps, which is validated and saved as the model; 0 for
            none. See :class:`~fusion.training.averaging.WeightAverage`.
        features: what a linear or mlp head is given: the ``"summary"``, the ``"mean"`` of the patches, ``"both"``, or
            the mean of each modality's ``"tokens"`` before they are combined.

    Attributes:
        average: the average so far, or None.
        intervals: a :class:`~fusion.training.conformal.ConformalInterval` for each quantity, or none.
    """

    target_mean: Tensor  # (K,)
    target_std: Tensor  # (K,)
    class_weights: Tensor | None  # (K,)
    logit_offset: Tensor | None  # (K,) of the loss alone

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        classes: Sequence[str],
        freeze: bool = False,
        head: HeadName | None = None,
        lr: float | None = None,
        patience: int | None = None,
        factor: float | None = None,
        target_mean: Sequence[float] = (),
        target_std: Sequence[float] = (),
        label_shape: Sequence[int] = (),
        ignore_index: int = -1,
        class_weights: Literal["none", "balanced"] | Sequence[float] = "none",
        class_shares: Sequence[float] = (),
        interval_level: float = LEVEL,
        intervals: Sequence[Mapping[str, Any]] = (),
        recipe: RecipeName = "default",
        optimizer: OptimizerName | None = None,
        weight_decay: float | None = None,
        schedule: ScheduleName | None = None,
        warmup: float | None = None,
        dropout: float | None = None,
        label_smoothing: float | None = None,
        logit_adjustment: float | None = None,
        average: float | None = None,
        features: Pool | None = None,
    ) -> None:
        super().__init__()
        given = {name: value for name, value in locals().items() if name in TUNED}
        classes = words(classes, "Finetuning: classes")
        target_mean, target_std = tuple(map(float, target_mean)), tuple(map(float, target_std))
        dense = bool(label_shape)
        require_labels(task, classes, dense, {"target_mean": target_mean, "target_std": target_std})
        if head is None:
            head = "linear" if not dense else "decoder" if hasattr(model, "pyramid") else "patch"
        heads = _OF_MAPS if dense else _OF_TILES
        if head not in heads:
            kind, names = "maps" if dense else "of tiles", " or ".join(map(repr, heads))
            raise ValueError(f"Finetuning: head is {names}, not {head!r}, where labels are {kind}")
        chosen = recipe_settings(recipe, given, task, dense)
        if head not in ("linear", "mlp"):
            if features is not None:
                raise ValueError(f"Finetuning: features={features!r} are of a head 'linear' or 'mlp', not of {head!r}")
            chosen["features"] = None
        if lr is None:
            lr = RECIPES[recipe].rates["frozen" if freeze else "scratch"]
        weights = weights_of(class_weights, task, classes)
        if weights is not None and logit_adjustment is None:
            chosen["logit_adjustment"] = 0.0  # or rare classes were counted twice
        if not class_shares:
            if logit_adjustment:
                raise ValueError(
                    f"Finetuning: logit_adjustment={logit_adjustment} needs class_shares; fine-tune with "
                    "fusion.evaluation.finetune or `fusion finetune`, which count the training labels"
                )
            chosen["logit_adjustment"] = 0.0
        offset = log_class_shares(class_shares, classes) * chosen["logit_adjustment"] if class_shares else None
        known = saved_intervals(interval_level, intervals, task, classes)
        self.save_hyperparameters(ignore="model")
        self.hparams.update(chosen)
        self.model, self.task, self.classes, self.frozen = model, task, classes, freeze
        self.dense, self.ignore_index, self.intervals = dense, ignore_index, known
        outputs, rate = len(classes), chosen["dropout"]
        self.head = (
            dense_head(cast(Any, head), model, outputs, (label_shape[0], label_shape[1]))
            if dense
            else tile_head(cast(Any, head), model, outputs, chosen["features"], rate)
        )
        self.average = WeightAverage(chosen["average"]) if chosen["average"] else None
        self.register_buffer("target_mean", torch.tensor(target_mean or (0.0,) * outputs))
        self.register_buffer("target_std", torch.tensor(target_std or (1.0,) * outputs).clamp_min(1e-12))
        # Not among the saved tensors: checkpoints without weights stay complete, and the settings hold the numbers.
        self.register_buffer("class_weights", weights, persistent=False)
        self.register_buffer("logit_offset", offset, persistent=False)
        model.requires_grad_(not freeze)
        metrics = label_metrics(task, outputs, ignore_index if dense else None)
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
        chosen = self.hparams
        optimizer: torch.optim.Optimizer
        if chosen["optimizer"] == "adam":
            optimizer = torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=chosen["lr"])
        else:
            optimizer = torch.optim.AdamW(parameter_groups(self, chosen["weight_decay"]), lr=chosen["lr"])
        schedule: Any
        if chosen["schedule"] == "plateau":
            schedule = plateau(optimizer, chosen["patience"], chosen["factor"])
        else:
            schedule = warmup_cosine(optimizer, int(self.trainer.estimated_stepping_batches), chosen["warmup"])
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self)

    def on_validation_start(self) -> None:
        if self.average is not None:
            self.average.swap(self)

    def on_validation_end(self) -> None:
        if self.average is not None:
            self.average.swap(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            checkpoint["average"] = self.average.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(checkpoint["average"])

    @staticmethod
    def with_former_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a file or a run, with what they were when there were no recipes, if they are from then."""
        if "recipe" in saved:
            return dict(saved)
        pooled = saved.get("head") not in (*_OF_MAPS, "attention")
        former = {name: getattr(RECIPES["paper"], name) for name in TUNED}
        return former | {"recipe": "paper", "features": "summary" if pooled else None} | dict(saved)

    def _outputs(self, batch: TileBatch) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            known: Any = cast(Any, self.head).features(self.model, batch)
        if isinstance(self.head, DenseHead):
            known = [F.dropout(level, self.hparams["dropout"], self.training) for level in known]
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
        smoothing = self.hparams["label_smoothing"] if self.training else 0.0
        if self.task == "multilabel":
            wanted = labels.float() * (1 - smoothing) + smoothing / 2
            return F.binary_cross_entropy_with_logits(out, wanted, pos_weight=self.class_weights), out, labels
        if self.task == "multiclass":
            logits = out if self.logit_offset is None else out + self.logit_offset
            loss = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)  # (n,)
            return (loss if self.class_weights is None else loss * self.class_weights[labels]).mean(), out, labels
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
