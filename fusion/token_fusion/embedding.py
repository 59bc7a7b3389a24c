"""What is added up to a token's embedding: its code, or that it is hidden, and its place."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from ..kernels import euclidean_buckets
from ..layers import encode_days
from ..layers.constants import Constants
from .tokens import Layout

__all__ = ["CodeTables", "PlaceEmbedding", "relation_buckets"]

# Buckets 0..3 are for pairs of patches, then those for pairs of dates, then one for all others.
_FIRST_DATE, _DATES = 4, 10
_REST = _FIRST_DATE + _DATES


class CodeTables(Constants):
    """A table (C, K, D) for every modality: embeddings of its codes, and weights of their scores at the output.

    Tables of bins are smooth functions of the bin's number: waves times a learned matrix. With hundreds of bins most
    are seen a few times only; a free vector for each would tell training tiles apart by them instead of learning what
    a value means. Other codes have a free vector each.

    Args:
        ordinal: by modality, (C,) bool: of which channels neighbouring codes are similar.
    """

    def __init__(self, layout: Layout, ordinal: dict[str, Tensor], dim: int) -> None:
        super().__init__()
        self.layout, self.ordinal = layout, ordinal
        self.smooth, self.free = nn.ParameterDict(), nn.ParameterDict()
        for name, codes in layout.vocabulary.items():
            smooth = int(ordinal[name].sum())
            self.register_constant(f"waves_{name}", partial(_waves, codes))  # (K, F)
            if smooth:
                self.smooth[name] = nn.Parameter(torch.randn(smooth, _WAVES, dim) * _WAVES**-0.5)
            if smooth < len(ordinal[name]):
                self.free[name] = nn.Parameter(torch.randn(len(ordinal[name]) - smooth, codes, dim))

    def __getitem__(self, name: str) -> Tensor:
        """The table (C, K, D) of a modality."""
        if name not in self.smooth:
            return self.free[name]
        smooth = self.get_buffer(f"waves_{name}") @ self.smooth[name]
        if name not in self.free:
            return smooth
        order = self.ordinal[name].int().argsort(stable=True).argsort()  # free ones first, then back
        return torch.cat([self.free[name], smooth])[order.to(smooth.device)]

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, N) -> (B, N, D); what a missing one gives means nothing."""
        parts = []
        for name, part in self.layout.slices.items():
            table = self[name]
            channel = self.layout.channel[part].to(codes.device)
            index = channel * table.shape[1] + codes[:, part].clamp_min(0)
            parts.append(nn.functional.embedding(index, table.flatten(0, 1)))
        return torch.cat(parts, 1)


_WAVES = 64  # sines and cosines that a smooth table is made of
_SHORTEST = 24  # codes, the period of the fastest one


def _waves(codes: int) -> Tensor:
    """(K, F) sines and cosines over the codes with unit mean square, of periods from twice all codes down."""
    slow = math.pi / codes
    fast = max(slow, 2 * math.pi / _SHORTEST)
    frequency = torch.logspace(math.log10(slow), math.log10(fast), _WAVES // 2)
    angle = torch.arange(codes)[:, None] * frequency
    return math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], 1)


class PlaceEmbedding(Constants):
    """What is known of a token without its code, (N, D): modality, channel, patch, date.

    Patches and dates are sines and cosines (fixed) through a linear layer; modalities, channels, and a small
    correction of every single place are learned vectors.
    """

    modality_of: Tensor  # (N,)
    channel_of: Tensor  # (N,), counted over all modalities
    position_code: Tensor  # (N, D)
    time_code: Tensor  # (N, D)

    def __init__(self, layout: Layout, dim: int) -> None:
        super().__init__()
        channel = torch.zeros(len(layout), dtype=torch.int64, device="cpu")
        first = 0
        for name, part in layout.slices.items():
            channel[part] = layout.channel[part] + first
            first += layout.channels(name)
        self.modality = nn.Parameter(torch.randn(len(layout.names), dim) * 0.5)
        self.channel = nn.Parameter(torch.randn(first, dim) * 0.5)
        self.place = nn.Parameter(torch.randn(len(layout), dim) * 0.1)
        self.position, self.time = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.register_index("modality_of", lambda: layout.modality)
        self.register_index("channel_of", lambda: channel)
        self.register_constant("position_code", lambda: _grid_code(layout, dim))
        self.register_constant("time_code", lambda: _time_code(layout, dim))

    def forward(self) -> Tensor:
        fixed = self.position(self.position_code) + self.time(self.time_code)
        return self.modality[self.modality_of] + self.channel[self.channel_of] + self.place + fixed


def _grid_code(layout: Layout, dim: int) -> Tensor:
    """(N, D) sines and cosines of row and column (one half each), 0 for tokens of the whole tile."""
    patch = (layout.position - 1).clamp_min(0)
    row, column = patch // layout.grid[1], patch % layout.grid[1]
    code = torch.cat([encode_days(axis, dim // 2, period=1e4) for axis in (row, column)], -1)
    return torch.where((layout.position > 0)[:, None], code, 0)


def _time_code(layout: Layout, dim: int) -> Tensor:
    """(N, D) sines and cosines of the day, 0 for tokens without one."""
    dated = layout.time.isfinite()
    return torch.where(dated[:, None], encode_days(layout.time.double().nan_to_num(0), dim), 0)


def relation_buckets(layout: Layout) -> tuple[Tensor, Tensor]:
    """How two tokens lie to each other, as buckets for the attention's position table; at most 16.

    Two patches: by their distance on the grid (0, 1, 2 to 3, 4 and more, as iRPE's). Two dates: by the logarithm of
    the days between them (same day, then doubling from the shortest step on). All other pairs share a bucket.

    Returns:
        bucket (S, S) of S distinct places, and the place (N,) of every token.
    """
    kinds = torch.stack([layout.position.double(), layout.time.double().nan_to_num(-1e9)], 1)
    places, place = kinds.unique(dim=0, return_inverse=True)  # (S, 2), (N,)
    patch, time = places[:, 0].long(), places[:, 1]
    dated, on_grid = time > -1e9, patch > 0
    bucket = torch.full((len(places), len(places)), _REST)
    gap = (time[:, None] - time).abs()
    both_dated = dated[:, None] & dated
    shortest = gap[both_dated & (gap > 0)].min() if bool((both_dated & (gap > 0)).any()) else gap.new_ones(())
    steps = (gap / shortest).clamp_min(1).log2().add(1.5).floor().clamp_max(_DATES - 1).long()
    bucket = torch.where(both_dated, _FIRST_DATE + torch.where(gap > 0, steps, 0), bucket)
    distance = euclidean_buckets(*layout.grid) - 3  # 0..3 among patches
    both_on_grid = on_grid[:, None] & on_grid & ~both_dated
    return torch.where(both_on_grid, distance[patch[:, None], patch], bucket), place
