"""How token fusion trains."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import nn

from ..data.tiles import TileBatch
from ..layers.schedules import warmup_cosine
from ..settings import with_tuples
from ..training.pretraining import Pretraining
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
        settings = {name: value for name, value in locals().items() if name not in _NOT_OF_OBJECTIVES}
        if isinstance(config, dict):
            config = TokenFusionConfig.from_dict(config)
        super().__init__(TokenFusion(config))
        known = _known(objective, settings)
        if objective == "masked-values":
            self.objective = MaskedValues(self.model.tokenizer.layout, config.dim, **known)
        else:
            self.objective = MaskedPrediction(**with_tuples(known))

    def validation_step(self, batch: TileBatch, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        losses = self.objective(self.model, batch, generator, accuracy=True)
        self.log("val/loss", losses.total, batch_size=len(batch))
        for name, count in losses.counts.items():
            self.log(f"val/{name}/loss", losses.by_modality[name], batch_size=count)
            if name in losses.accuracy:  # without a weight of codes there is none
                self.log(f"val/{name}/accuracy", losses.accuracy[name], batch_size=count)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        decaying = {id(m.weight) for m in self.modules() if isinstance(m, nn.Linear)}
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if id(p) in decaying], "weight_decay": self.hparams["weight_decay"]},
            {"params": [p for p in trained if id(p) not in decaying], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["lr"], betas=tuple(self.hparams["betas"]))
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": optimizer, "lr_scheduler": warmup_cosine(optimizer, steps, self.hparams["warmup"])}


_NOT_OF_OBJECTIVES = ("self", "__class__", "config", "objective", "lr", "weight_decay", "betas", "warmup")


def _known(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the settings that the objective has; of the others none may differ from its default."""
    if name not in OBJECTIVES:
        raise ValueError(f"TokenFusionPretraining: objective is {' or '.join(map(repr, OBJECTIVES))}, not {name!r}")
    known = inspect.signature(OBJECTIVES[name]).parameters
    defaults = inspect.signature(TokenFusionPretraining.__init__).parameters
    given = {key: value for key, value in settings.items() if value is not None}
    if strange := [key for key, value in given.items() if key not in known and value != defaults[key].default]:
        raise ValueError(
            f"TokenFusionPretraining: objective {name!r} has no {', '.join(strange)}; leave it out, or take objective "
            f"{' or '.join(repr(other) for other in OBJECTIVES if other != name)}"
        )
    return {key: value for key, value in given.items() if key in known}
