"""How token fusion trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from ..data.tiles import TileBatch
from ..layers.schedules import warmup_cosine
from ..training.pretraining import Pretraining
from .config import TokenFusionConfig
from .model import TokenFusion
from .objective import MaskedPrediction

__all__ = ["TokenFusionPretraining"]


class TokenFusionPretraining(Pretraining[TokenFusion, MaskedPrediction]):
    """Trains :class:`TokenFusion` without labels, by AdamW with a linear warm-up and a cosine to zero.

    The model's tokenizer must be fitted before (``module.model.tokenizer.fit(tiles)``). Logs ``train/loss``,
    ``val/loss``, ``val/<modality>/loss`` and ``val/<modality>/accuracy``. Validation hides the same tokens in every
    epoch.

    Args:
        config: of the model, or its :meth:`~TokenFusionConfig.to_dict`.
        lr, weight_decay, betas: of AdamW; only the weights of linear layers decay.
        warmup: share of all steps in which the learning rate rises.
        inputs, targets, alphas, whole, spread, average: see :class:`~fusion.token_fusion.objective.MaskedPrediction`.
    """

    def __init__(
        self,
        config: TokenFusionConfig | dict[str, Any],
        lr: float = 1e-3,
        weight_decay: float = 0.05,
        betas: Sequence[float] = (0.9, 0.95),
        warmup: float = 0.05,
        inputs: Sequence[int] | None = None,
        targets: Sequence[int] | None = None,
        alphas: Sequence[float] = (0.1, 1.0, 10.0),
        whole: float = 0.8,
        spread: float = 1.0,
        average: Literal["modality", "token"] = "modality",
    ) -> None:
        if isinstance(config, dict):
            config = TokenFusionConfig.from_dict(config)
        super().__init__(TokenFusion(config))
        self.objective = MaskedPrediction(
            inputs=None if inputs is None else (inputs[0], inputs[1]),
            targets=None if targets is None else (targets[0], targets[1]),
            alphas=tuple(alphas),
            whole=whole,
            spread=spread,
            average=average,
        )

    def validation_step(self, batch: TileBatch, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        losses = self.objective(self.model, batch, generator, accuracy=True)
        self.log("val/loss", losses.total, batch_size=len(batch))
        for name, count in losses.counts.items():
            self.log(f"val/{name}/loss", losses.by_modality[name], batch_size=count)
            self.log(f"val/{name}/accuracy", losses.accuracy[name], batch_size=count)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        decaying = {id(m.weight) for m in self.model.modules() if isinstance(m, nn.Linear)}
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in decaying], "weight_decay": self.hparams["weight_decay"]},
            {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], betas=tuple(self.hparams["betas"]))
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": warmup_cosine(optimizer, steps, self.hparams["warmup"])}
