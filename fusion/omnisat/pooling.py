"""2x2 max-pooling that remembers where each maximum stood, and the un-pooling that puts it back.

A position is an int16 into the flat map instead of PyTorch's int64, and nothing else is kept for the backward pass.
Maps are (N, C, H, W), fastest in channels-last memory. Work goes by slices of patches: small ones that fit a cache
for what is bound by memory, larger ones, still below the size from which the C library gives memory back and has to
ask for it again every time, for chains of layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.autocast import differentiable_once

__all__ = [
    "empty_map",
    "index_dtype",
    "layout",
    "max_pool",
    "patch_slices",
    "pick",
    "pool",
    "some_maps",
    "to_channels_last",
    "unpool",
]

# Bytes of the largest map in one slice; on a GPU enough to fill it, and no end for chains of layers.
_CACHED = {"cpu": 2 << 20}
_CHAINED = {"cpu": 28 << 20, "cuda": 1 << 62}


def patch_slices(patches: int, bytes_per_patch: int, device: torch.device, chained: bool = False) -> Iterator[slice]:
    """Cuts ``patches`` into consecutive slices whose maps are small, or (``chained``) not large.

    One slice where ``torch.export`` traces: how many there are must not hang on the batch of the example.
    """
    if torch.compiler.is_exporting():
        return iter((slice(None),))
    limit = (_CHAINED if chained else _CACHED).get(device.type, 256 << 20)
    step = max(1, limit // max(1, bytes_per_patch))
    return (slice(start, min(start + step, patches)) for start in range(0, patches, step))


def layout(maps: Tensor) -> torch.memory_format:
    """The memory format of (N, C, H, W) maps or weights; channels-last where it could be either."""
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def to_channels_last(module: nn.Module) -> None:
    """Lays the weights of convolutions out for channels-last maps, in place."""
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def empty_map(weight: Tensor, patches: int, channels: int, side: int) -> Tensor:
    """(patches, channels, side, side) with dtype, device and memory format of ``weight``."""
    shape = (patches, channels, side, side)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout(weight))


def index_dtype(side: int) -> torch.dtype:
    """What holds a position in a map of side x side pixels."""
    return torch.int16 if side * side <= torch.iinfo(torch.int16).max else torch.int32


def pool(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of the 2x2 windows, (N, C, H//2, W//2), and their positions in H*W; an odd last line is left out."""
    pooled, index = F.max_pool2d(maps, 2, return_indices=True)
    return pooled, index.to(index_dtype(maps.shape[-1]))


def unpool(pooled: Tensor, index: Tensor, side: int) -> Tensor:
    """(N, C, h, w) -> (N, C, side, side): every value at its position, zero elsewhere."""
    return F.max_unpool2d(pooled, index.to(torch.int64), (2, 2), output_size=(side, side))


def pick(maps: Tensor, index: Tensor) -> Tensor:
    """(N, C, H, W), (N, C, h, w) -> (N, C, h, w): the values at the positions, the reverse of :func:`unpool`."""
    values = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (N, H*W, C), which is how channels-last lies in memory
    at = index.permute(0, 2, 3, 1)
    return values.gather(1, at.flatten(1, 2).to(torch.int64)).view(at.shape).permute(0, 3, 1, 2)


def some_maps(maps: Tensor, rows: Tensor) -> Tensor:
    """Some of the N maps (N, C, H, W), by number (R,), channels-last before and after."""
    return maps.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        count, channels, side, _ = maps.shape
        pooled = empty_map(maps, count, channels, side // 2)
        index = torch.empty_like(pooled, dtype=index_dtype(side))
        for part in patch_slices(count, maps[:1].nbytes, maps.device):
            pooled[part], index[part] = pool(maps[part])
        ctx.save_for_backward(index)
        ctx.side = side
        ctx.mark_non_differentiable(index)
        return pooled, index

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor, _: None) -> Tensor:
        (index,) = ctx.saved_tensors
        count, channels = grad.shape[:2]
        out = empty_map(grad, count, channels, ctx.side)
        for part in patch_slices(len(out), out[:1].nbytes, out.device):
            out[part] = unpool(grad[part], index[part], ctx.side)
        return out


def max_pool(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiable :func:`pool`; keeps two bytes a window for the backward pass."""
    if torch.compiler.is_exporting():
        return pool(maps)
    return _MaxPool.apply(maps)
