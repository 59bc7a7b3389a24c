"""2x2 max-pooling that remembers where each maximum stood, and the un-pooling that puts it back.

A position in a 2x2 window is one byte (0..3, raster order) instead of PyTorch's int64 index of the whole map, and
nothing else is kept for the backward pass. Maps are (N, C, H, W), fastest in channels-last memory where one strided
write moves whole pixels. The work goes by slices of patches that fit a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["empty_map", "layout", "max_pool", "patch_slices", "pick", "pool", "unpool"]

# Bytes of the largest map that one step works on: about one core's L2 cache, or enough to fill a GPU.
_STEP_BYTES = {"cpu": 4 << 20, "cuda": 256 << 20}


def patch_slices(patches: int, bytes_per_patch: int, device: torch.device) -> Iterator[slice]:
    """Cuts ``patches`` into consecutive slices whose maps are small."""
    step = max(1, _STEP_BYTES.get(device.type, 256 << 20) // max(1, bytes_per_patch))
    return (slice(start, min(start + step, patches)) for start in range(0, patches, step))


def layout(maps: Tensor) -> torch.memory_format:
    """The memory format of (N, C, H, W) maps or weights; channels-last where it could be either."""
    last = maps.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def empty_map(weight: Tensor, patches: int, channels: int, side: int) -> Tensor:
    """(patches, channels, side, side) with dtype, device and memory format of ``weight``."""
    shape = (patches, channels, side, side)
    return torch.empty(shape, dtype=weight.dtype, device=weight.device, memory_format=layout(weight))


def corners(maps: Tensor) -> list[Tensor]:
    """The four corners of every 2x2 window as views (N, C, H//2, W//2); an odd last row or column is left out."""
    height, width = maps.shape[2] // 2 * 2, maps.shape[3] // 2 * 2
    return [maps[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1)]


def pool(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima of the 2x2 windows (N, C, H//2, W//2) and their corners (same shape, uint8); ties: the first."""
    a, b, c, d = corners(maps)
    top, bottom = torch.maximum(a, b), torch.maximum(c, d)
    code = torch.where(bottom > top, (d > c).to(torch.uint8).add_(2), (b > a).to(torch.uint8))
    return torch.maximum(top, bottom), code


def pick(maps: Tensor, code: Tensor) -> Tensor:
    """The value of ``maps`` (N, C, H, W) at corner ``code`` of every window (N, C, H//2, W//2)."""
    a, b, c, d = corners(maps)
    return torch.where(code < 2, torch.where(code == 0, a, b), torch.where(code == 2, c, d))


def unpool(pooled: Tensor, code: Tensor, out: Tensor) -> Tensor:
    """Writes every value of ``pooled`` (N, C, h, w) to its corner of ``out`` (N, C, H, W), zero elsewhere."""
    for corner, view in enumerate(corners(out)):
        torch.mul(pooled, code == corner, out=view)
    if out.shape[2] % 2:
        out[:, :, -1] = 0
    if out.shape[3] % 2:
        out[:, :, :, -1] = 0
    return out


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        count, channels, side, _ = maps.shape
        pooled = empty_map(maps, count, channels, side // 2)
        code = torch.empty_like(pooled, dtype=torch.uint8)
        for part in patch_slices(count, maps[:1].nbytes, maps.device):
            pooled[part], code[part] = pool(maps[part])
        ctx.save_for_backward(code)
        ctx.side, ctx.format = side, layout(maps)
        ctx.mark_non_differentiable(code)
        return pooled, code

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: None) -> Tensor:
        (code,) = ctx.saved_tensors
        shape = (*grad.shape[:2], ctx.side, ctx.side)
        out = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=ctx.format)
        for part in patch_slices(len(out), out[:1].nbytes, out.device):
            unpool(grad[part], code[part], out[part])
        return out


def max_pool(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Differentiable :func:`pool`; keeps one byte a window for the backward pass."""
    return _MaxPool.apply(maps)
