"""How OmniSat trains: the LightningModule of its pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from ..data.tiles import TileBatch
from ..layers.schedules import plateau, warmup_cosine
from ..training.pretraining import Pretraining, objective_settings
from .config import OmniSatConfig
from .masked_dates import MaskedDatesObjective
from .masking import MaskedTokens, Masking
from .model import OmniSat
from .objectives import Exclude, PretrainingObjective, Targets

__all__ = ["OBJECTIVES", "OmniSatPretraining"]

OBJECTIVES: dict[str, Any] = {"paper": PretrainingObjective, "masked-dates": MaskedDatesObjective}
_WARMUP = 0.05  # share of all steps in which the learning rate of "masked-dates" rises


class OmniSatPretraining(Pretraining[OmniSat, PretrainingObjective | MaskedDatesObjective]):
    """Trains :class:`OmniSat` without labels.

    ``objective="paper"`` (3.4): Adam 1e-4, learning rate x 0.1 on a plateau of 10 epochs. ``"masked-dates"``, ours:
    AdamW, the learning rate rises over a twentieth of all steps and falls to zero along a cosine.

    Logs ``train/loss``, ``val/loss``, ``val/contrastive``, ``val/retrieval`` and
    ``val/reconstruction/<modality>``. Validation masks the same tokens in every epoch. Several processes
    (``devices=4``) train on their joined batch by default, see ``share_negatives``.

    Args:
        config: of the model, or its :meth:`~OmniSatConfig.to_dict`.
        lr: learning rate; patience, factor: of ReduceLROnPlateau (``"paper"``); weight_decay: of AdamW.
        mask_ratio: 0.75 with the paper's objective, else 0.5.
        masking, masked_tokens, contrastive_weight, reconstruction_weight, exclude, temperature, date_share,
            index_bypass, patch_scales, targets, share_negatives: see
            :class:`~fusion.omnisat.objectives.PretrainingObjective`.
        objective: ``"paper"`` or ``"masked-dates"``.
        summary_weight, hidden_dates, modality_dropout: see
            :class:`~fusion.omnisat.masked_dates.MaskedDatesObjective`.

    Raises:
        ValueError: a setting that the objective does not have, or data from which it could learn nothing.
    """

    def __init__(
        self,
        config: OmniSatConfig | dict[str, Any],
        lr: float = 1e-4,
        mask_ratio: float | None = None,
        contrastive_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        temperature: float = 0.1,
        targets: Targets = "modality",
        patience: int = 10,
        factor: float = 0.1,
        share_negatives: bool = True,
        masking: Masking = "token",
        masked_tokens: MaskedTokens = "replace",
        exclude: Exclude = "tile",
        date_share: float = 0.25,
        index_bypass: bool = True,
        patch_scales: Sequence[int] = (1,),
        objective: Literal["paper", "masked-dates"] = "paper",
        summary_weight: float = 0.5,
        hidden_dates: float = 0.5,
        modality_dropout: float = 0.2,
        weight_decay: float = 0.01,
    ) -> None:
        settings = dict(locals())
        if isinstance(config, dict):
            config = OmniSatConfig.from_dict(config)
        super().__init__(OmniSat(config))
        settings.pop("config")
        own = objective_settings(OmniSatPretraining, OBJECTIVES, objective, settings)
        self.objective = OBJECTIVES[objective](config, **own)
        self.hparams["mask_ratio"] = self.objective.mask_ratio  # what None became, as runs before had it

    def validation_step(self, batch: TileBatch, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        losses = self.objective(self.model, batch, generator)
        values = {"val/loss": losses.total, "val/contrastive": losses.contrastive}
        if losses.retrieval is not None:
            values["val/retrieval"] = losses.retrieval
        values |= {f"val/reconstruction/{name}": error for name, error in losses.by_modality.items()}
        self.log_dict(values, batch_size=len(batch))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        lr = self.hparams["lr"]
        if self.hparams["objective"] == "paper":
            adam = torch.optim.Adam(self.parameters(), lr=lr)
            return {
                "optimizer": adam,
                "lr_scheduler": plateau(adam, self.hparams["patience"], self.hparams["factor"]),
            }
        adamw = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=self.hparams["weight_decay"])
        steps = int(self.trainer.estimated_stepping_batches)
        return {"optimizer": adamw, "lr_scheduler": warmup_cosine(adamw, steps, _WARMUP)}
