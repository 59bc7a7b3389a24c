"""How OmniSat trains: the LightningModule of its pretraining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig

from ..data.tiles import TileBatch
from ..layers.schedules import plateau
from ..training.pretraining import Pretraining
from .config import OmniSatConfig
from .masking import MaskedTokens, Masking
from .model import OmniSat
from .objectives import Exclude, PretrainingObjective, Targets

__all__ = ["OmniSatPretraining"]


class OmniSatPretraining(Pretraining[OmniSat, PretrainingObjective]):
    """Trains :class:`OmniSat` without labels (paper 3.4: Adam 1e-4, learning rate x 0.1 on a plateau of 10 epochs).

    Logs ``train/loss``, ``val/loss``, ``val/contrastive``, ``val/retrieval`` and
    ``val/reconstruction/<modality>``. Validation masks the same tokens in every epoch. Several processes
    (``devices=4``) train on their joined batch by default, see ``share_negatives``.

    Args:
        config: of the model, or its :meth:`~OmniSatConfig.to_dict`.
        lr, patience, factor: of Adam and of ReduceLROnPlateau.
        mask_ratio, masking, masked_tokens, contrastive_weight, reconstruction_weight, exclude, temperature, date_share,
            index_bypass, patch_scales, targets, share_negatives: see
            :class:`~fusion.omnisat.objectives.PretrainingObjective`.
    """

    def __init__(
        self,
        config: OmniSatConfig | dict[str, Any],
        lr: float = 1e-4,
        mask_ratio: float = 0.75,
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
    ) -> None:
        if isinstance(config, dict):
            config = OmniSatConfig.from_dict(config)
        super().__init__(OmniSat(config))
        self.objective = PretrainingObjective(
            config,
            mask_ratio=mask_ratio,
            contrastive_weight=contrastive_weight,
            reconstruction_weight=reconstruction_weight,
            temperature=temperature,
            targets=targets,
            masking=masking,
            masked_tokens=masked_tokens,
            exclude=exclude,
            date_share=date_share,
            index_bypass=index_bypass,
            patch_scales=patch_scales,
            share_negatives=share_negatives,
        )

    def validation_step(self, batch: TileBatch, index: int) -> None:
        generator = torch.Generator().manual_seed(index)
        losses = self.objective(self.model, batch, generator)
        values = {"val/loss": losses.total, "val/contrastive": losses.contrastive}
        if losses.retrieval is not None:
            values["val/retrieval"] = losses.retrieval
        values |= {f"val/reconstruction/{name}": error for name, error in losses.by_modality.items()}
        self.log_dict(values, batch_size=len(batch))

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])
        return {
            "optimizer": optimizer,
            "lr_scheduler": plateau(optimizer, self.hparams["patience"], self.hparams["factor"]),
        }
