"""The attention over dates of the Lightweight Temporal Attention Encoder (Garnot & Landrieu 2020, arXiv 2007.00586)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout
from .masked import masked_softmax

__all__ = ["TemporalAttention"]


class TemporalAttention(nn.Module):
    """Pools dates with one learned query per head; the values are the inputs themselves, cut into heads.

    The queries depend on nothing, so they are multiplied into the key projection first: a date needs ``heads``
    dot products and no key. Position codes are equal for all patches and all heads: they are never added to the
    values but carried through the two linear maps on their own, (B, L, D/heads) instead of (B, P, L, D).
    """

    def __init__(self, dim: int, heads: int, key_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.key_dim = heads, key_dim
        deviation = math.sqrt(2 / key_dim)
        self.query = nn.Parameter(torch.empty(heads, key_dim).normal_(0, deviation))
        self.key = nn.Linear(dim, heads * key_dim)
        nn.init.normal_(self.key.weight, 0, deviation)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor, positions: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """values (B, P, L, D), positions (B, L, D/H), valid (B, L) -> pooled (B, P, D), attention (B, P, L, H).

        The attention returned is the one before dropout.
        """
        query, offset = self.projected(positions)
        scores = F.linear(values, query) + offset[:, None]  # (B, P, L, H)
        attention = masked_softmax(scores, None if valid is None else valid[:, None, :, None], dim=2)
        weights = self.dropout(attention)
        pooled = (weights.unsqueeze(-1) * values.unflatten(-1, (self.heads, -1))).sum(2)  # (B, P, H, D/H)
        pooled = pooled + torch.einsum("bplh,blw->bphw", weights, positions)
        return pooled.flatten(2), attention

    def projected(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What makes scores of dates: (H, D) to multiply them with, and (B, L, H) to add for positions (B, L, D/H)."""
        query = self.query / math.sqrt(self.key_dim)  # (H, K)
        folded = torch.einsum("hk,hkd->hd", query, self.key.weight.unflatten(0, (self.heads, self.key_dim)))
        offset = (query * self.key.bias.view(self.heads, self.key_dim)).sum(1)  # (H,)
        by_slice = folded.unflatten(1, (self.heads, -1)).sum(1)  # (H, D/H): the code is repeated for every slice
        return folded, F.linear(positions, by_slice, offset)
