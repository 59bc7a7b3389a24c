"""Loss terms of :class:`fusion.compat.vector_quantize_pytorch.VectorQuantize`, with that library's numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.quantize.op import pass_gradient
from .vector_search import scaled

__all__ = ["LossBreakdown", "cross_entropy", "diversity", "orthogonality", "towards"]


class LossBreakdown(NamedTuple):
    """The terms of the loss before their weights, each a scalar (commitment with ``topk``: one per code)."""

    commitment: Tensor
    codebook_diversity: Tensor
    orthogonal_reg: Tensor
    inplace_optimize: Tensor


def cross_entropy(score: Tensor, codes: Tensor, heads: int) -> Tensor:
    """Cross-entropy of the scores (h, B, N, K) of all codes at ``codes`` (B, N) or (B, N, heads); -1 is left out."""
    if heads == 1:
        logits = score[0]  # (B, N, K)
    elif len(score) == heads:
        logits = score.permute(1, 2, 0, 3)  # (B, N, H, K)
    else:
        logits = score[0].unflatten(0, (-1, heads)).transpose(1, 2)  # (B, N, H, K)
    return F.cross_entropy(logits.reshape(-1, score.shape[-1]), codes.reshape(-1).long(), ignore_index=-1)


def diversity(score: Tensor, temperature: float) -> Tensor:
    """Minus the entropy of how likely codes are at one position, averaged over positions; score (h, B, N, K)."""
    share = (score * temperature).softmax(-1).flatten(0, 1).mean(0)  # (N, K)
    return (share * share.clamp(min=1e-5).log()).sum(-1).mean()


def orthogonality(embed: Tensor) -> Tensor:
    """Mean squared cosine of pairs of codes (h, K, D), without what a code has with itself (arXiv 2112.00384)."""
    directions = scaled(embed)
    cosines = directions @ directions.mT
    count = embed.shape[1]
    return cosines.square().sum() / (len(embed) * count**2) - 1 / count


def towards(x: Tensor, quantized: Tensor, how: str, variance: float) -> Tensor:
    """``quantized`` (..., D) with a gradient for x (..., D).

    ``how``: ``"rotation"`` (arXiv 2410.06424), ``"straight-through"``, or ``"directional"``: x moved by its distance
    to the code, in the code's direction with noise of that ``variance``; the code has a gradient too.
    """
    if how != "directional":
        return pass_gradient(x, quantized, how)
    error = quantized - x
    noisy = error + math.sqrt(variance) * torch.randn_like(error)
    return x + scaled(noisy).detach() * error.norm(dim=-1, keepdim=True)
