"""The definition of relative-position attention: plain PyTorch, any float dtype, everything Lq x Lk in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from .dropout import keep_mask

__all__ = ["relative_attention"]


def relative_attention(
    query: Tensor,  # (B, H, Lq, D)
    key: Tensor,  # (B, H, Lk, D)
    value: Tensor,  # (B, H, Lk, D)
    *,
    table: Tensor,  # (1|H, D, K) contextual, (1|H, K) bias
    bucket: Tensor,  # (S, S)
    query_position: Tensor | None = None,  # (Lq,)
    key_position: Tensor | None = None,  # (Lk,)
    mode: str = "contextual",
    key_valid: Tensor | None = None,  # (B, Lk)
    dropout_p: float = 0.0,
    scale: float | None = None,
    seed: Tensor | None = None,  # (1,) int64
) -> Tensor:  # (B, H, Lq, D)
    """See :func:`fusion.kernels.relative_attention`. ``seed``: of the dropout mask; None: drawn as there."""
    if scale is None:
        scale = query.shape[-1] ** -0.5
    batch, heads, keys = key.shape[:3]
    queries = query.shape[2]
    rows = torch.arange(queries) if query_position is None else query_position.cpu()
    columns = torch.arange(keys) if key_position is None else key_position.cpu()
    index = bucket.cpu().long()[rows.long()[:, None], columns.long()].to(query.device)  # (Lq, Lk)

    query = query.expand(batch, -1, -1, -1)
    logits = scale * query @ key.transpose(-1, -2)  # (B, H, Lq, Lk)
    if mode == "contextual":
        by_bucket = scale * query @ table.to(query.dtype)  # (B, H, Lq, K)
        logits = logits + by_bucket.gather(-1, index.expand(*by_bucket.shape[:3], keys))
    else:
        logits = logits + table.to(query.dtype)[:, index]
    if key_valid is not None:
        logits = logits.masked_fill(~key_valid[:, None, None, :], float("-inf"))
    weights = logits.softmax(-1)
    if key_valid is not None:  # softmax of a row without a valid key is 0 / 0
        weights = weights.masked_fill(~key_valid.any(-1)[:, None, None, None], 0.0)
    if dropout_p > 0:
        if seed is None:
            seed = torch.randint(0, 2**62, (1,), device=query.device, dtype=torch.int64)
        row = torch.arange(batch * heads * queries, device=query.device).view(batch, heads, queries)
        weights = weights * keep_mask(seed, row, keys, dropout_p) / (1 - dropout_p)
    return weights @ value
