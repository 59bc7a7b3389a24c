"""How token fusion trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from ..data.tiles import TileBatch
from ..layers.schedules import warmup_cosine
from ..settings import with_tuples
from ..training.pretraining import Pretraining, objective_settings
from ..training.recipes import parameter_groups
from .config import TokenFusionConfig
from .masked_values import MaskedValues
from .model import TokenFusion
from .objective import MaskedPrediction

__all__ = ["OBJECTIVES", "TokenFusionPretraining"]

OBJECTIVES: dict[str, Any] = {"masked-codes": MaskedPrediction, "masked-values": MaskedValues}


class TokenFusionPretraining(Pretraining[TokenFusion, MaskedPrediction | MaskedValues]):
    """Trains :class:`TokenFusion` without labels, by AdamW with a linear warm-up and a cosine to zero.

    ``objective="masked-codes"`` is the paper's, as far as it is known: hidden codes are predicted. ``"masked-values"``,
    ours, also asks for values, by spans of dates and whole modalities, and contrasts two views of a tile.

    The model's tokenizer must be fitted before (``module.model.tokenizer.fit(tiles)``). Logs ``train/loss``,
    ``val/loss``, ``val/<modality>/loss`` and ``val/<modality>/accuracy``. Validation hides the same tokens in every
    epoch.

    Args:
        config: of the model, or its :meth:`~TokenFusionConfig.to_dict`.
        lr, weight_decay, betas: of AdamW; only the weights of linear layers decay.
        warmup: share of all steps in which the learning rate rises.
        inputs, targets, alphas, average: of ``"masked-codes"``, see
            :class:`~fusion.token_fusion.objective.MaskedPrediction`.
        whole, spread: of either objective. ``whole`` is by default 0.8 of ``"masked-codes"``, 0.25 of
            ``"masked-values"``.
        objective: ``"masked-codes"`` or ``"masked-values"``.
        code_weight, value_weight, contrastive_weight, temperature: of ``"masked-values"``, see
            :class:`~fusion.token_fusion.masked_values.MaskedValues`.

    Raises:
        ValueError: an unknown objective, or a setting that it does not have.
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
        whole: float | None = None,
        spread: float = 1.0,
        average: Literal["modality", "token"] = "modality",
        objective: Literal["masked-codes", "masked-values"] = "masked-codes",
        code_weight: float = 1.0,
        value_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        temperature: float = 0.1,
    ) -> None:
        settings = dict(locals())
        if isinstance(config, dict):
            config = TokenFusionConfig.from_dict(config)
        super().__init__(TokenFusion(config))
        known = objective_settings(TokenFusionPretraining, OBJECTIVES, objective, settings)
        if objective == "masked-values":
            self.objective = MaskedValues(self.model.tokenizer.layout, config.dim, **known)
        else:
            self.objective = MaskedPrediction(**with_tuples(known))
        self.hparams["whole"] = self.objective.whole  # what None became, as runs before had it

    def validation_step(self, batch: TileBatch, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        losses = self.objective(self.model, batch, generator, accuracy=True)
        self.log("val/loss", losses.total, batch_size=len(batch))
        for name, count in losses.counts.items():
            self.log(f"val/{name}/loss", losses.by_modality[name], batch_size=count)
            if name in losses.accuracy:  # without a weight of codes there is none
                self.log(f"val/{name}/accuracy", losses.accuracy[name], batch_size=count)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        groups = parameter_groups(self, self.hparams["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], betas=tuple(self.hparams["betas"]))
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": warmup_cosine(optimizer, steps, self.hparams["warmup"])}
