"""OpenCLIP's loss: ``from fusion.compat.open_clip import ClipLoss``."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..kernels import patch_info_nce

__all__ = ["ClipLoss"]


class ClipLoss(nn.Module):
    """Stand-in for ``open_clip.ClipLoss``: CLIP's symmetric cross-entropy without the B x B logits.

    Args:
        local_loss, gather_with_grad, rank, world_size: as there, for the default process group. The loss is that
            of the joined batch on every rank, and its gradient is exact for the rank's own features; with
            ``gather_with_grad`` it is multiplied by ``world_size``, so that after DistributedDataParallel's
            averaging it is the gradient of the joined batch. ``local_loss`` saves memory there and nothing here.
        cache_labels: accepted; there are no labels to cache.
        use_horovod: refused.
    """

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
    ) -> None:
        super().__init__()
        if use_horovod:
            raise ValueError("ClipLoss: use_horovod=True is not supported; use torch.distributed")
        self.gather_with_grad = gather_with_grad
        self.world_size = world_size

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Features (B, D), already normalised as the model gives them. ``logit_bias`` changes no softmax."""
        features = torch.stack([image_features, text_features])[:, :, None]  # (2, B, 1, D)
        group = dist.group.WORLD if self.world_size > 1 else None
        options: dict[str, Any] = {"exclude": "modality", "normalize": False, "group": group}
        loss = cast(Tensor, patch_info_nce(features, temperature=1 / logit_scale, **options))
        if group is not None and self.gather_with_grad:
            loss = self.world_size * loss - (self.world_size - 1) * loss.detach()
        return {"contrastive_loss": loss} if output_dict else loss
