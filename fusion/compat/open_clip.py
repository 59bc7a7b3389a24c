"""OpenCLIP's loss: ``from fusion.compat.open_clip import ClipLoss``."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import patch_info_nce
from ..kernels.memory import transforming

__all__ = ["ClipLoss", "gather_features"]


class ClipLoss(nn.Module):
    """Stand-in for ``open_clip.ClipLoss``: CLIP's symmetric cross-entropy without the B x B logits.

    The logits are formed only where they are asked for: by :meth:`get_logits`, by a subclass that overrides it or
    :meth:`get_ground_truth`, with a ``logit_scale`` below 0 or not finite or a ``logit_bias`` of several elements,
    under ``torch.func``, and with ``local_loss`` without ``gather_with_grad`` on several ranks.

    Args:
        local_loss: on several ranks, the loss is the mean over the rank's own rows, not over the joined batch.
        gather_with_grad: as there: features have the gradient of the sum of the losses of all ranks, so that after
            DistributedDataParallel's averaging it is that of the joined batch. Without it the gradient is, as there,
            that of one loss with respect to the rank's own features, smaller by ``world_size`` after averaging; with
            ``local_loss`` it lacks that of the other ranks' rows. (Where both are on, ranks have other shares of the
            gradient of ``logit_scale`` than there, with the same sum.)
        cache_labels: whether :meth:`get_ground_truth` keeps what it returns.
        rank, world_size: of the default process group, which must be initialised if there are several.
        use_horovod: refused.

    Raises:
        NotImplementedError: ``use_horovod=True``.
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
            raise NotImplementedError("ClipLoss: use_horovod=True is not supported; use torch.distributed")
        self.local_loss, self.gather_with_grad, self.cache_labels = local_loss, gather_with_grad, cache_labels
        self.rank, self.world_size, self.use_horovod = rank, world_size, False
        self.prev_num_logits = 0
        self.labels: dict[torch.device, Tensor] = {}

    def get_ground_truth(self, device: torch.device, num_logits: int) -> Tensor:
        """(num_logits,), the column in which each row of the logits has its match."""
        if self.prev_num_logits == num_logits and device in self.labels:
            return self.labels[device]
        labels = torch.arange(num_logits, device=device)
        if self.world_size > 1 and self.local_loss:
            labels = labels + num_logits * self.rank
        if self.cache_labels:
            self.labels[device], self.prev_num_logits = labels, num_logits
        return labels

    def get_logits(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Logits of images (rows) for texts and of texts for images, (B, B); rows or columns of all ranks as there."""
        images, texts = image_features, text_features
        if self.world_size > 1:
            images, texts = gather_features(
                *(images, texts, self.local_loss, self.gather_with_grad, self.rank, self.world_size)
            )
        if self.world_size > 1 and not self.local_loss:
            for_images = logit_scale * images @ texts.T
            for_texts = for_images.T
        else:
            for_images = logit_scale * image_features @ texts.T
            for_texts = logit_scale * text_features @ images.T
        return (for_images, for_texts) if logit_bias is None else (for_images + logit_bias, for_texts + logit_bias)

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float | None = None,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Features (B, D), already normalised as the model gives them. A scalar ``logit_bias`` changes no softmax.

        Raises:
            ValueError: features of different shapes; a ``world_size`` that is not that of torch.distributed.
        """
        if image_features.ndim != 2 or image_features.shape != text_features.shape:
            shapes = f"{tuple(image_features.shape)} and {tuple(text_features.shape)}"
            raise ValueError(f"ClipLoss: image_features and text_features must both be (B, D), got {shapes}")
        running = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if self.world_size not in (1, running):
            raise ValueError(f"ClipLoss: world_size={self.world_size}, but torch.distributed runs with {running}")
        if self._needs_logits(logit_scale, logit_bias):
            for_images, for_texts = self.get_logits(image_features, text_features, logit_scale, logit_bias=logit_bias)
            labels = self.get_ground_truth(image_features.device, len(for_images))
            loss = (F.cross_entropy(for_images, labels) + F.cross_entropy(for_texts, labels)) / 2
        else:
            loss = self._without_logits(torch.stack([image_features, text_features]), logit_scale)
            if isinstance(logit_bias, Tensor):
                loss = loss + 0 * logit_bias.sum()  # a parameter without a gradient stops DistributedDataParallel
        return {"contrastive_loss": loss} if output_dict else loss

    def _without_logits(self, features: Tensor, scale: Tensor | float) -> Tensor:
        """Of features (2, B, D)."""
        options: dict[str, Any] = {"exclude": "modality", "normalize": False}
        if self.world_size > 1:
            options |= {"group": dist.group.WORLD}
            if self.local_loss:
                options |= {"reduction": "none"}
            elif isinstance(scale, Tensor):
                scale = _SummedGradient.apply(scale, self.world_size if self.gather_with_grad else 1)
        loss = cast(Tensor, patch_info_nce(features[:, :, None], temperature=1 / scale, **options))
        if self.world_size > 1 and self.local_loss:
            return loss.mean()
        if self.world_size > 1 and self.gather_with_grad:
            return self.world_size * loss - (self.world_size - 1) * loss.detach()
        return loss

    def _needs_logits(self, scale: Tensor | float, bias: Tensor | float | None) -> bool:
        methods = (self.get_logits, ClipLoss.get_logits), (self.get_ground_truth, ClipLoss.get_ground_truth)
        if any(getattr(mine, "__func__", None) is not known for mine, known in methods):
            return True
        if self.world_size > 1 and self.local_loss and not self.gather_with_grad:
            return True
        if isinstance(bias, Tensor) and bias.numel() != 1:
            return True
        if transforming():  # torch.func: values cannot be read, and forward mode is wanted, too
            return True
        if not isinstance(scale, Tensor):
            return not 0 < scale < math.inf
        if scale.device.type != "cpu" or torch.compiler.is_compiling():
            return False  # not worth waiting for a GPU, nor breaking a graph
        scale = scale.detach()
        return not bool(((scale > 0) & (scale < math.inf)).all())


def gather_features(
    image_features: Tensor,
    text_features: Tensor,
    local_loss: bool = False,
    gather_with_grad: bool = False,
    rank: int = 0,
    world_size: int = 1,
    use_horovod: bool = False,
) -> tuple[Tensor, Tensor]:
    """Features (B, D) of all ranks, (world_size B, D).

    Gradients go to all ranks with ``gather_with_grad``, otherwise to the rank's own rows or, with ``local_loss``, to
    none.

    Raises:
        NotImplementedError: ``use_horovod=True``.
    """
    if use_horovod:
        raise NotImplementedError("gather_features: use_horovod=True is not supported; use torch.distributed")
    return tuple(_gathered(x, local_loss, gather_with_grad, rank, world_size) for x in (image_features, text_features))  # type: ignore[return-value]


def _gathered(x: Tensor, local_loss: bool, with_grad: bool, rank: int, world_size: int) -> Tensor:
    if with_grad:
        from torch.distributed.nn.functional import all_gather  # not in every build of torch

        return torch.cat(all_gather(x.contiguous()))
    parts = [torch.zeros_like(x) for _ in range(world_size)]
    dist.all_gather(parts, x.contiguous())
    if not local_loss:
        parts[rank] = x
    return torch.cat(parts)


class _SummedGradient(torch.autograd.Function):
    """x, with the gradients of all ranks summed and divided by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, divisor: int) -> Tensor:
        ctx.divisor = divisor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone()
        dist.all_reduce(gradient)
        return gradient / ctx.divisor, None
