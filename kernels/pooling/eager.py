"""Pooling of dates in plain PyTorch: on every device, in float64 too, and with a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import working_dtype

__all__ = ["pool_dates"]


def pool_dates(
    values: Tensor,
    bias: Tensor | None,
    valid: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    groups: int,
    eps: float,
    query: Tensor,
    offset: Tensor,
    positions: Tensor,
) -> tuple[Tensor, Tensor]:
    """As :func:`fusion.kernels.pool_dates`; values (B, P, L, D)."""
    dtype, heads = working_dtype(values), query.shape[0]
    x = values.to(dtype)
    bias, norm_weight, norm_bias = (None if t is None else t.to(dtype) for t in (bias, norm_weight, norm_bias))
    query, offset, positions = (t.to(dtype) for t in (query, offset, positions))
    if valid is None:
        valid = torch.ones(x.shape[0], x.shape[2], dtype=torch.bool, device=x.device)
    rows = valid[:, None, :, None]  # (B, 1, L, 1)
    x = x.masked_fill(~rows, 0)
    if bias is not None:
        x = (x + bias).clamp_min(0)
    if norm_weight is not None and norm_bias is not None:
        x = _normalised(x, rows, groups, eps) * norm_weight + norm_bias
    scores = torch.einsum("bpld,hd->bplh", x, query) + offset[:, None]
    lowest = torch.finfo(dtype).min  # not -inf: a tile without a valid date must not become NaN
    attention = scores.masked_fill(~rows, lowest).softmax(2) * rows
    pooled = torch.einsum("bplh,bplhw->bphw", attention, x.unflatten(-1, (heads, -1)))
    pooled = pooled + torch.einsum("bplh,blw->bphw", attention, positions)
    return pooled.flatten(2), attention


def _normalised(x: Tensor, rows: Tensor, groups: int, eps: float) -> Tensor:
    """x (B, P, L, D) with zero mean and unit variance over the valid dates of a patch and the channels of a group."""
    grouped, weight = x.unflatten(-1, (groups, -1)), rows.unsqueeze(-1)  # (B, P, L, G, W)
    count = (rows.sum(2, keepdim=True) * grouped.shape[-1]).clamp_min(1).unsqueeze(-1)  # (B, 1, 1, 1, 1)
    mean = (grouped * weight).sum((2, 4), keepdim=True) / count  # (B, P, 1, G, 1)
    centred = grouped - mean
    variance = (centred.square() * weight).sum((2, 4), keepdim=True) / count
    normal: Tensor = centred * (variance + eps).rsqrt()
    return normal.flatten(-2)
