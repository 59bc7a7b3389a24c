"""What a step of pretraining returns, and means over the tiles of several processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from ..kernels.infonce.distributed import joined_sum
from ..layers import masked_mean

__all__ = ["Losses", "joined_mean", "scaled_to_world", "world"]


@dataclass
class Losses:
    """Terms of one pretraining step, all scalars.

    ``retrieval`` is the share of tokens whose most similar token in the denominator of the contrastive loss is
    the same patch in another modality (validation only). ``by_modality`` are mean reconstruction errors.
    """

    total: Tensor
    contrastive: Tensor
    reconstruction: Tensor
    retrieval: Tensor | None
    by_modality: dict[str, Tensor]


def world(shared: bool) -> dist.ProcessGroup | None:
    """The processes that this one is trained together with, if losses are ``shared``; None where it is alone."""
    if not (shared and dist.is_available() and dist.is_initialized()):
        return None
    return dist.group.WORLD if dist.get_world_size() > 1 else None


def joined_mean(values: Tensor, valid: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """:func:`masked_mean` over all processes of the group."""
    if group is None:
        return masked_mean(values, valid)
    weight = valid.to(values.dtype)
    total, count = (joined_sum(x, group) for x in ((values * weight).sum(), weight.sum()))
    return total / count.clamp_min(1)


def scaled_to_world(total: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The same value with the gradient times the number of processes: theirs add up to that of the joined batch, but
    will be averaged."""
    return total if group is None else total + (dist.get_world_size(group) - 1) * (total - total.detach())
