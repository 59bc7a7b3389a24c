"""3x3 convolutions in float32 by Winograd's filtering: transforms in C++ (csrc/cpu/convolution.h), products by torch.

With U = G w G' (16, C, D) of the kernel and V = B' d B (16, T, C) of the T tiles of the input, y = A' (V U) A.
Backwards, with Z = A g A' of the gradient, the kernel's is G' (V' Z) G, and the input's the overlapping sum of
B (Z U') B'.

Maps are taken a few at a time, so that their 16 matrices, four times as large as they, stay in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..operators import declare_native

__all__ = ["backward", "forward"]

_gather_tiles = declare_native("gather_tiles_cpp(Tensor maps, Tensor(a!) matrices) -> ()")
_gather_gradients = declare_native("gather_gradients_cpp(Tensor maps, Tensor(a!) matrices) -> ()")
_write_tiles = declare_native("write_tiles_cpp(Tensor matrices, Tensor(a!) maps) -> ()")
_add_tiles = declare_native("add_tiles_cpp(Tensor matrices, Tensor(a!) maps) -> ()")

_SLICE = 1 << 20  # bytes of maps at a time
_G = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]])
_BOTH_WAYS = torch.kron(_G, _G)  # (16, 9): G w G' of a kernel's nine numbers


def forward(x: Tensor, weight: Tensor) -> Tensor:
    """x (N, C, h, w), weight (D, C, 3, 3), both float32 -> (N, D, h, w) in channels-last memory."""
    maps, kernel = _channels_last(x), _kernel_matrices(weight)
    out = x.new_empty(*maps.shape[:3], len(weight))  # (N, h, w, D)
    for part, tiles in _slices(maps):
        seen, products = x.new_empty(16, tiles, maps.shape[3]), x.new_empty(16, tiles, len(weight))
        _gather_tiles(maps[part], seen)
        torch.bmm(seen, kernel, out=products)
        _write_tiles(products, out[part])
    return out.permute(0, 3, 1, 2)


def backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """Gradients of the input, in channels-last memory, and of the kernel, those that are wanted; grad (N, D, h, w)."""
    maps, grads, kernel = _channels_last(x), _channels_last(grad), _kernel_matrices(weight)
    grad_maps = torch.empty_like(maps) if wanted[0] else x.new_empty(0)
    grad_kernel = torch.zeros_like(kernel)
    for part, tiles in _slices(maps):
        seen, given = x.new_empty(16, tiles, maps.shape[3]), x.new_empty(16, tiles, len(weight))
        _gather_gradients(grads[part], given)
        if wanted[1]:
            _gather_tiles(maps[part], seen)
            grad_kernel.baddbmm_(seen.mT, given)
        if wanted[0]:
            torch.bmm(given, kernel.mT, out=seen)
            _add_tiles(seen, grad_maps[part])
    grad_maps = grad_maps.permute(0, 3, 1, 2) if wanted[0] else grad_maps
    return grad_maps, _kernel_gradient(grad_kernel) if wanted[1] else x.new_empty(0)


def _kernel_matrices(weight: Tensor) -> Tensor:
    """(D, C, 3, 3) -> (16, C, D)."""
    columns = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_BOTH_WAYS @ columns).view(16, weight.shape[1], weight.shape[0])


def _kernel_gradient(matrices: Tensor) -> Tensor:
    """(16, C, D) -> (D, C, 3, 3)."""
    columns = _BOTH_WAYS.mT @ matrices.flatten(1)
    return columns.view(3, 3, *matrices.shape[1:]).permute(3, 2, 0, 1).contiguous()


def _channels_last(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w, C), contiguous."""
    return maps.permute(0, 2, 3, 1).contiguous()


def _slices(maps: Tensor) -> Iterator[tuple[slice, int]]:
    """Slices of maps (N, h, w, C), and how many tiles each has."""
    step = max(1, _SLICE // max(1, maps[:1].nbytes))
    tiles = ((maps.shape[1] + 1) // 2) * ((maps.shape[2] + 1) // 2)
    for start in range(0, len(maps), step):
        part = slice(start, min(start + step, len(maps)))
        yield part, (part.stop - part.start) * tiles
