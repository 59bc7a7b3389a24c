"""Encoder and decoder of time-series patches (paper 3.1, figure 3b), and the choice of dates to reconstruct.

The encoder is the Lightweight Temporal Attention Encoder (Garnot & Landrieu 2020): every date becomes a vector,
and a learned query per head weighs the dates of each patch. Padded and missing dates take no part: not in the
statistics of the normalisations, not in the attention, not in the choice.
"""

from __future__ import annotations

import itertools
import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import pool_dates
from ..layers import Dropout, MaskedBatchNorm, MaskedGroupNorm, TemporalAttention, encode_days
from ..layers.merged import linear_norm_relu, may_merge, merged

__all__ = ["SeriesDecoder", "SeriesEncoder", "TemporalAttention", "patchify_series", "select_dates"]


def patchify_series(values: Tensor, patch_size: int) -> Tensor:
    """(B, L, C, H, W) -> (B, P, L, C*s*s): patches in raster order, features channel-major (C, dy, dx)."""
    batch, length, channels, height, width = values.shape
    s, rows, cols = patch_size, height // patch_size, width // patch_size
    cut = values.view(batch, length, channels, rows, s, cols, s).permute(0, 3, 5, 1, 2, 4, 6)
    return cut.reshape(batch, rows * cols, length, channels * s * s)


class SeriesEncoder(nn.Module):
    """Time-series patches to tokens.

    Args:
        channels: features of one date, C * patch_size^2.
        dim: token width.
        heads, key_dim: of the attention; ``heads`` is also the number of groups of the group norms.
        widths: of the layers that turn a date into a vector, before the last one of width ``dim``.
        mlp_dim: middle width of the layers after the pooling.
        normalise: group-normalise the dates of a patch before the attention.
        period: base of the day encoding, see :func:`fusion.layers.encode_days`.
    """

    def __init__(
        self,
        channels: int,
        dim: int = 256,
        *,
        heads: int = 16,
        key_dim: int = 8,
        widths: tuple[int, ...] = (32, 128),
        mlp_dim: int = 512,
        dropout: float = 0.2,
        attention_dropout: float = 0.1,
        normalise: bool = True,
        period: float = 367.0,
    ) -> None:
        super().__init__()
        self.period = period
        before, after = (channels, *widths, dim), (dim, dim, mlp_dim, dim)
        self.date_layers = nn.ModuleList(nn.Linear(*w) for w in itertools.pairwise(before))
        self.date_norms = nn.ModuleList(MaskedBatchNorm(w) for w in before[1:])
        self.in_norm = MaskedGroupNorm(heads, dim) if normalise else None
        self.attention = TemporalAttention(dim, heads, key_dim, attention_dropout)
        self.layers = nn.ModuleList(nn.Linear(*w) for w in itertools.pairwise(after))
        self.norms = nn.ModuleList(MaskedBatchNorm(w) for w in after[1:])
        self.out_norm = nn.GroupNorm(heads, dim)
        self.dropout = Dropout(dropout)

    def forward(self, series: Tensor, days: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encodes all patches of all tiles.

        Args:
            series: (B, P, L, C) standardised values.
            days: (B, L) integer days.
            valid: (B, L) bool, or None where every date is.

        Returns:
            tokens (B, P, D), and attention (B, L): the mean over patches and heads, zero on dates not valid.
        """
        batch, patches = series.shape[:2]
        per_date = None if valid is None else valid[:, None].expand(-1, patches, -1)  # (B, P, L)
        x = series
        *early, last = _pairs(self.date_layers, self.date_norms)
        for linear, norm in early:
            x = linear_norm_relu(linear, norm, x, per_date, self.dropout)  # (B, P, L, width)
        x, attention = self._pool(*last, x, days, valid)  # (B, P, D), (B, P, L, H)
        per_tile = None if valid is None else valid.any(1)[:, None].expand(-1, patches)  # (B, P)
        for linear, norm in _pairs(self.layers, self.norms):
            x = linear_norm_relu(linear, norm, x, per_tile)
        x = self.out_norm(self.dropout(x).flatten(0, 1)).view(batch, patches, -1)
        return x, attention.mean((1, 3))

    def _pool(
        self, linear: nn.Linear, norm: MaskedBatchNorm, x: Tensor, days: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The last layer of dates x (B, P, L, width), and their pooling: (B, P, D), and attention (B, P, L, H)."""
        parts = [part for part in (self.in_norm, self.attention, self.attention.key) if part is not None]
        fused = not self.dropout.active and norm.track_running_stats and may_merge(x, linear, norm, *parts)
        positions = encode_days(days, norm.num_features // self.attention.heads, period=self.period)
        if fused:
            weight, bias = merged(linear, norm)
            positions, group_norm = positions.to(weight.dtype), self.in_norm
            return pool_dates(
                F.linear(x, weight),
                *self.attention.projected(positions),
                positions,
                valid=valid,
                bias=bias,
                norm=None if group_norm is None else (group_norm.weight, group_norm.bias),
                groups=1 if group_norm is None else group_norm.num_groups,
                eps=0.0 if group_norm is None else group_norm.eps,
            )
        per_date = None if valid is None else valid[:, None].expand(-1, x.shape[1], -1)  # (B, P, L)
        x = linear_norm_relu(linear, norm, x, per_date, self.dropout)  # (B, P, L, D)
        if self.in_norm is not None:
            x = self.in_norm(x, valid)
        return self.attention(x, positions.to(x.dtype), valid)


def _pairs(layers: nn.ModuleList, norms: nn.ModuleList) -> list[tuple[nn.Linear, MaskedBatchNorm]]:
    return cast("list[tuple[nn.Linear, MaskedBatchNorm]]", list(zip(layers, norms, strict=True)))


def select_dates(attention: Tensor, valid: Tensor, share: float = 0.25) -> tuple[Tensor, Tensor]:
    """The share of each tile's valid dates with the most attention (paper 3.1: cloudless dates attract it).

    Args:
        attention: (B, L). valid: (B, L) bool.
        share: of the n valid dates, ceil(share * n) are chosen: at least one, and any of them may be.

    Returns:
        dates (B, K) int64 indices into L, and chosen (B, K) bool: False where a tile has fewer. K depends on L
        only, so nothing waits for the device.
    """
    most = math.ceil(share * attention.shape[1])
    wanted = torch.ceil(share * valid.sum(1, keepdim=True))  # (B, 1)
    ranked = attention.detach().masked_fill(~valid, -1).topk(most, dim=1).indices  # (B, K), falling attention
    return ranked, torch.arange(most, device=valid.device) < wanted


class SeriesDecoder(nn.Linear):
    """A token and the code of a day to the values of that day.

    ``forward`` makes use of linearity: W (f + e(t)) + b = W f + (W e(t) + b), so the sum of a token and a day,
    (R, K, D), is never formed.
    """

    def __init__(self, dim: int, channels: int, period: float = 367.0) -> None:
        super().__init__(dim, channels)
        self.period = period

    def forward(self, tokens: Tensor, days: Tensor | None = None, tile: Tensor | None = None) -> Tensor:
        """Decodes patches of several tiles, each on the dates of its tile; without days, tokens alone (..., C).

        Args:
            tokens: (R, D) patch encodings. days: (B, K) of every tile. tile: (R,) the tile of each patch.

        Returns:
            (R, K, C) predicted values.
        """
        if days is None:
            return super().forward(tokens)
        by_day = F.linear(self.encode_days(days).to(tokens.dtype), self.weight)  # (B, K, C)
        by_patch = F.linear(tokens, self.weight, self.bias)  # (R, C)
        return by_patch[:, None] + by_day[tile]  # (R, K, C)

    def encode_days(self, days: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        return encode_days(days, self.in_features, period=self.period)
