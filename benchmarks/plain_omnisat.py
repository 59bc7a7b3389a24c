"""OmniSat on plain PyTorch ops: the same mathematics and weights, written as a user would without fusion's ops.

``plainly(model, objective)`` turns a pair in place into it: images in PyTorch's default memory format and layer by
layer, keys for every date, attention logits with a gathered bias, the contrastive loss on the whole N x N matrix.
Dropout, which draws other noise, aside, it computes what ours computes (tests/benchmarks/test_plain_omnisat.py checks).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.kernels import RelativeAttention
from fusion.layers import Dropout, MaskedBatchNorm, MaskedGroupNorm
from fusion.omnisat import OmniSat, PretrainingObjective
from fusion.omnisat.image import ImageDecoder, ImageEncoder
from fusion.omnisat.series import SeriesDecoder, SeriesEncoder, TemporalAttention

__all__ = ["plainly"]


def plainly(model: OmniSat, objective: PretrainingObjective) -> None:
    """Replaces the forward passes of both by plain ones. For batches in which everything is observed."""
    forwards = {
        Dropout: nn.Dropout.forward,
        ImageEncoder: image_tokens,
        ImageDecoder: image_patches,
        MaskedBatchNorm: lambda norm, x, valid=None: nn.BatchNorm1d.forward(norm, x.flatten(0, -2)).view(x.shape),
        MaskedGroupNorm: date_norm,
        RelativeAttention: attention,
        SeriesDecoder: date_values,
        SeriesEncoder: series_tokens,
        TemporalAttention: temporal_attention,
    }
    for module in (*model.modules(), *objective.modules()):
        if type(module) in forwards:
            module.forward = forwards[type(module)].__get__(module)
        module.to(memory_format=torch.contiguous_format)
    objective.contrast = lambda seen, alike=None: (contrast(seen.tokens), None)


def image_tokens(self: ImageEncoder, patches: Tensor, valid: Tensor, maps: None = None) -> tuple[Tensor, list[Tensor]]:
    x = F.gelu(self.stem.norm(self.stem.conv(patches.contiguous())))  # (N, D, h, w)
    x, index = F.max_pool2d(x, 2, return_indices=True)
    indices = [index]
    for block in self.blocks:
        x, index = F.max_pool2d(block(x), 2, return_indices=True)
        indices.append(index)
    return x.flatten(1), indices


def image_patches(self: ImageDecoder, tokens: Tensor, indices: list[Tensor]) -> Tensor:
    x = tokens[:, :, None, None]
    for convolution, index, side in zip(self.convolutions, reversed(indices), self.sides, strict=True):
        x = F.max_unpool2d(x, index.contiguous(), 2, output_size=(side, side))
        x = F.conv_transpose2d(
            x, convolution.weight, convolution.bias, convolution.stride, 1, convolution.output_padding
        )
    return x


def date_norm(self: MaskedGroupNorm, x: Tensor, valid: Tensor) -> Tensor:
    rows = x.flatten(0, 1).transpose(1, 2)  # (B*P, D, L)
    return nn.GroupNorm.forward(self, rows).transpose(1, 2).unflatten(0, x.shape[:2])


def series_tokens(self: SeriesEncoder, series: Tensor, days: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    x = series
    for linear, norm in zip(self.date_layers, self.date_norms, strict=True):
        x = self.dropout(F.relu(norm(linear(x))))
    x = self.in_norm(x, valid)
    code = sinusoid(days, x.shape[-1] // self.attention.heads, self.period)
    x, weights = self.attention(x + code.repeat(1, 1, self.attention.heads)[:, None], code, valid)
    for linear, norm in zip(self.layers, self.norms, strict=True):
        x = F.relu(norm(linear(x)))
    return self.out_norm(self.dropout(x).flatten(0, 1)).view(*series.shape[:2], -1), weights.mean((1, 3))


def temporal_attention(self: TemporalAttention, values: Tensor, code: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    keys = self.key(values).unflatten(-1, (self.heads, self.key_dim))  # (B, P, L, H, K)
    attention = ((keys * self.query).sum(-1) / math.sqrt(self.key_dim)).softmax(2)  # (B, P, L, H)
    weights = self.dropout(attention)
    by_head = values.unflatten(-1, (self.heads, -1))  # (B, P, L, H, D/H)
    return torch.einsum("bplh,bplhw->bphw", weights, by_head).flatten(2), attention


def date_values(self: SeriesDecoder, tokens: Tensor, days: Tensor, tile: Tensor) -> Tensor:
    code = sinusoid(days, self.in_features, self.period)[tile]  # (R, K, D)
    return F.linear(tokens[:, None] + code, self.weight, self.bias)


def sinusoid(days: Tensor, width: int, period: float) -> Tensor:
    angle = days[..., None] / period ** (torch.arange(0, width, 2, device=days.device, dtype=torch.float64) / width)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(-2).float()


def attention(
    self: RelativeAttention,
    tokens: Tensor,
    *,
    query: Tensor | None = None,
    key_position: Tensor,
    valid: Tensor | None = None,
    **_: Any,
) -> Tensor:
    projected = self.project_in(tokens).unflatten(-1, (-1, self.heads, tokens.shape[-1] // self.heads))
    *own, key, value = projected.permute(2, 0, 3, 1, 4)  # (B, H, L, D)
    if query is not None:
        own = [query.unflatten(-1, (self.heads, -1)).transpose(1, 2).expand(len(tokens), -1, -1, -1)]
    bucket = self.bucket[:, key_position] if query is not None else self.bucket[key_position][:, key_position]
    scaled = own[0] * own[0].shape[-1] ** -0.5
    bias = (scaled @ self.table).gather(-1, bucket.expand(*scaled.shape[:2], -1, -1))  # (B, H, Lq, Lk)
    weights = F.dropout((scaled @ key.mT + bias).softmax(-1), self.dropout, self.training)
    return self.project_out((weights @ value).transpose(1, 2).flatten(2))


def contrast(tokens: Tensor, temperature: float = 0.1) -> Tensor:
    tiles, patches = tokens.shape[1:3]
    unit = F.normalize(tokens.flatten(0, 2), dim=1)
    logits = unit @ unit.T / temperature  # (N, N)
    index = torch.arange(len(unit), device=tokens.device)
    block, place = index // patches, index % (tiles * patches)
    everything = logits.masked_fill(block[:, None] == block, -torch.inf).logsumexp(1)
    positive = (place[:, None] == place) & (index[:, None] != index)
    return (everything - logits.masked_fill(~positive, -torch.inf).logsumexp(1)).mean()
