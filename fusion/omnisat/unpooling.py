"""Un-pooling followed by a transposed convolution, as one step that keeps the small map only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .pooling import empty_map, layout, patch_slices, pick, unpool

__all__ = ["UnpoolConvolution"]


class _UnpoolConvolution(torch.autograd.Function):
    """conv_transpose(unpool(x)), a few patches at a time; backward un-pools again instead of keeping the map."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, weight: Tensor, bias: Tensor | None, side: int, geometry: tuple
    ) -> Tensor:
        stride, output_padding = geometry
        width = (side - 1) * stride + 1 + output_padding
        out = empty_map(weight, len(x), weight.shape[1], width)
        for part in patch_slices(len(x), x.shape[1] * side * side * x.element_size(), x.device):
            maps = unpool(x[part], index[part], side)
            out[part] = torch.conv_transpose2d(maps, weight, bias, stride, 1, output_padding)
        ctx.save_for_backward(x, index, weight)
        ctx.side, ctx.geometry, ctx.biased = side, geometry, bias is not None
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor | None, None, None]:
        x, index, weight = ctx.saved_tensors
        side, (stride, output_padding) = ctx.side, ctx.geometry
        grad = grad.contiguous(memory_format=layout(weight))
        grad_x = empty_map(weight, *x.shape[:3])
        grad_weight = torch.zeros_like(weight)
        for part in patch_slices(len(x), x.shape[1] * side * side * x.element_size(), x.device):
            maps = unpool(x[part], index[part], side)
            grad_maps, part_weight, _ = torch.ops.aten.convolution_backward(
                grad[part],
                maps,
                weight,
                None,
                [stride, stride],
                [1, 1],
                [1, 1],
                True,
                [output_padding, output_padding],
                1,
                (True, True, False),
            )
            grad_weight += part_weight
            grad_x[part] = pick(grad_maps, index[part])
        return grad_x, None, grad_weight, grad.sum((0, 2, 3)) if ctx.biased else None, None, None


class UnpoolConvolution(nn.ConvTranspose2d):
    """3x3 transposed convolution of a map that is first un-pooled to ``side`` x ``side`` pixels."""

    def __init__(self, channels: int, out: int, stride: int = 1, output_padding: int = 0, bias: bool = False) -> None:
        super().__init__(channels, out, 3, stride, 1, output_padding, bias=bias)

    def forward(self, x: Tensor, index: Tensor | None, side: int) -> Tensor:
        """x (N, C, h, w), index of the same shape -> (N, out, ...); without index, x is not un-pooled."""
        if index is None:
            return super().forward(x)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        geometry = (self.stride[0], self.output_padding[0])
        return _UnpoolConvolution.apply(x, index, weight, bias, side, geometry)
