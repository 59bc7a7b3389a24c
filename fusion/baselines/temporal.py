"""The Lightweight Temporal Attention Encoder (Garnot & Landrieu 2020, arXiv 2007.00586)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import Dropout, MaskedBatchNorm, MaskedGroupNorm, TemporalAttention, encode_days

__all__ = ["TemporalEncoder"]


class TemporalEncoder(nn.Module):
    """Dates of any number of places to one vector a place. Dates that are not valid take no part.

    Args:
        channels: of a date; a multiple of ``heads``, which is also the number of groups of the group norms.
        dim: width of the result, a multiple of ``heads``.
        width: of the attention, a multiple of ``2 * heads``.
        heads, key_dim: one learned query of ``key_dim`` a head.
        dropout: of the result; attention weights have half of it.
        period: base of the day encoding, see :func:`fusion.layers.encode_days`.
    """

    def __init__(
        self, channels: int, dim: int, *, width: int, heads: int, key_dim: int, dropout: float, period: float
    ) -> None:
        super().__init__()
        self.width, self.period = width, period
        self.in_norm = MaskedGroupNorm(heads, channels)
        self.expand = nn.Linear(channels, width)
        self.attention = TemporalAttention(width, heads, key_dim, dropout / 2)
        self.contract = nn.Linear(width, dim)
        self.norm = MaskedBatchNorm(dim)
        self.dropout = Dropout(dropout)
        self.out_norm = nn.GroupNorm(heads, dim)

    def forward(self, x: Tensor, days: Tensor, valid: Tensor, counted: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encodes P places of N tiles.

        Args:
            x: (N, P, L, C). days: (N, L). valid: (N, L) bool.
            counted: (N, P) bool, the places whose vectors make the statistics of the batch norm; None for all.

        Returns:
            vectors (N, P, dim), and attention (N, P, L, heads), zero on dates not valid.
        """
        x = self.expand(self.in_norm(x, valid))  # (N, P, L, width)
        positions = encode_days(days, self.width // self.attention.heads, period=self.period).to(x.dtype)
        pooled, attention = self.attention(x, positions, valid)  # (N, P, width), (N, P, L, H)
        out = self.dropout(F.relu(self.norm(self.contract(pooled), counted)))
        return self.out_norm(out.flatten(0, 1)).view(out.shape), attention
