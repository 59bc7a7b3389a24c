"""Lightly's SimCLR loss: ``from fusion.compat.lightly import NTXentLoss``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..kernels import patch_info_nce

__all__ = ["NTXentLoss"]


class NTXentLoss(nn.Module):
    """Stand-in for ``lightly.loss.NTXentLoss`` without the 2B x 2B logits (SimCLR, arXiv 2002.05709, Eq. 1).

    Args:
        temperature: as there.
        memory_bank_size: only 0; MoCo's memory bank is another loss.
        gather_distributed: negatives from all ranks. The loss is the mean over the joined batch (there: over the
            rank's own rows); gradients are exact for the rank's own rows and add up over ranks to the joined ones.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        if memory_bank_size not in (0, (0,), [0]):
            raise ValueError(
                f"NTXentLoss: memory_bank_size={memory_bank_size} is not supported; use 0 (SimCLR) here, or "
                "lightly's own class for MoCo"
            )
        if abs(temperature) < 1e-8:
            raise ValueError(f"Illegal temperature: abs({temperature}) < 1e-8")
        self.temperature = temperature
        self.gather_distributed = gather_distributed

    def forward(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Projections of two views of the same images, (B, D) each."""
        views = torch.stack([out0, out1])[:, :, None]  # (2, B, 1, D)
        shared = self.gather_distributed and dist.is_initialized() and dist.get_world_size() > 1
        group = dist.group.WORLD if shared else None
        return cast(Tensor, patch_info_nce(views, temperature=self.temperature, exclude="self", group=group))
