"""The search that forms the distances of every vector to every code, for what is asked of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernels.quantize import code_decode
from ..layers.autocast import without_autocast

__all__ = ["Found", "scaled", "search_all"]

Found = tuple[Tensor, Tensor, Tensor | None]  # quantized (h, B, N, [k,] D), codes (h, B, N, [k]), (h, B, N, K) or None


def scaled(x: Tensor) -> Tensor:
    """x (..., D) at unit length, with the original's guard for short vectors."""
    return F.normalize(x, dim=-1, eps=1e-6)


def search_all(
    x: Tensor,
    embed: Tensor,
    cosine: bool,
    topk: int | None,
    sample: Mapping[str, Any],
    transform: Callable[[Tensor], Tensor] | None,
) -> Found:
    """Codes of x (h, B, N, D), and minus its distance to, or its cosine with, every code of embed (h, K, D).

    Args:
        topk: how many of the nearest are returned; None for the nearest without a dimension of its own.
        sample: ``stochastic`` adds Gumbel noise at ``temperature``; ``straight_through`` gives the quantized values
            the gradient of the softmax. Empty in evaluation.
        transform: gives each vector codes of its own: (h, K, D) -> (h, B, N, K, D).
    """
    rows = x.flatten(1, 2)  # (h, R, D)
    with without_autocast(x.device.type):
        each = None if transform is None else transform(embed).float().flatten(1, 2)  # (h, R, K, D)
        each = scaled(each) if each is not None and cosine else each
        score = _score(rows, embed, each, cosine)  # (h, R, K)
        drawn, temperature = score, sample.get("temperature", 0)
        if sample.get("stochastic") and temperature > 0:
            noise = torch.zeros_like(score).uniform_(0, 1)
            for _ in range(2):  # Gumbel noise
                noise = -noise.clamp(min=1e-20).log()
            drawn = score / temperature + noise
        codes = drawn.topk(topk, dim=-1).indices if topk else drawn.argmax(-1, keepdim=True)  # (h, R, k)
        codes = codes.masked_fill(rows.isnan().any(-1, keepdim=True), -1)
        if each is None:
            quantized = torch.stack([code_decode(part, one) for part, one in zip(codes, embed, strict=True)])
        else:
            quantized = each.take_along_dim(codes.clamp_min(0)[..., None], 2)
            quantized = quantized.masked_fill((codes < 0)[..., None], torch.nan)
        if sample.get("straight_through") and temperature > 0:
            share = (score / temperature).softmax(-1)
            share = share - share.detach()
            soft = (
                torch.einsum("h n k, h k d -> h n d", share, embed)
                if each is None
                else (share[..., None] * each).sum(2)
            )
            quantized = quantized + soft[:, :, None]
    shape = x.shape[:-1] if topk is None else (*x.shape[:-1], topk)
    return quantized.view(*shape, x.shape[-1]), codes.view(shape), score.view(*x.shape[:-1], -1)


def _score(rows: Tensor, embed: Tensor, each: Tensor | None, cosine: bool) -> Tensor:
    """Of rows (h, R, D) and the codes (h, K, D) of all, or (h, R, K, D) of each; with the original's rounding."""
    if each is not None:
        return (each @ rows[..., None])[..., 0] if cosine else -F.pairwise_distance(rows[:, :, None], each)
    products = torch.einsum("h n d, h k d -> h n k", rows, embed)
    if cosine:
        return products
    lengths = rows.square().sum(-1)[..., None] + embed.square().sum(-1)[:, None]
    return -(lengths - 2 * products).clamp(min=1e-8).sqrt()
