"""Un-pooling followed by a transposed convolution, as one step that keeps the small map only.

The un-pooled maps are the largest of the decoder. They are made a few patches at a time, in forward and again in
backward, and only the gradient at the positions of the maxima is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.convolution import convolution_3x3, convolution_3x3_backward
from ..layers.autocast import differentiable_once, to_autocast
from .pooling import empty_map, patch_slices, pick, unpool

__all__ = ["UnpoolConvolution", "UnpoolProjection"]


class _Convolution(torch.autograd.Function):
    """conv_transpose(unpool(x)) of stride 1: a convolution with the weight turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, weight: Tensor, side: int) -> Tensor:
        kernel = _turned(weight)
        out = empty_map(weight, len(x), weight.shape[1], side)
        for part in _slices(x, side, chained=True):
            out[part] = convolution_3x3(unpool(x[part], index[part], side), kernel)
        ctx.save_for_backward(x, index, weight)
        ctx.side = side
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        x, index, weight = ctx.saved_tensors
        kernel = _turned(weight)
        grad_x, grad_kernel = empty_map(weight, *x.shape[:3]), torch.zeros_like(kernel)
        for part in _slices(x, ctx.side, chained=True):
            maps = unpool(x[part], index[part], ctx.side)
            grad_maps, grad_part = convolution_3x3_backward(grad[part], maps, kernel)
            grad_kernel += grad_part
            grad_x[part] = pick(grad_maps, index[part])
        return grad_x, None, _turned(grad_kernel), None


def _turned(weight: Tensor) -> Tensor:
    """The weight (C, D, 3, 3) of a transposed convolution as that (D, C, 3, 3) of a convolution, and back."""
    return weight.flip(2, 3).transpose(0, 1)


class _Projection(torch.autograd.Function):
    """conv_transpose(unpool(x)) to few channels: one matrix product per pixel, then overlapping 3x3 windows add up.

    Library kernels for transposed convolutions are made for many channels; with four they take three times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor, weight: Tensor, side: int, stride: int, out_side: int) -> Tensor:
        columns, channels = weight.flatten(1), weight.shape[1]  # (D, C*9)
        out = x.new_empty(len(x), channels, out_side, out_side)
        for part in _slices(x, side):
            pixels = unpool(x[part], index[part], side).permute(0, 2, 3, 1).flatten(1, 2)  # (n, side^2, D)
            out[part] = F.fold((pixels @ columns).mT, out_side, 3, padding=1, stride=stride)
        ctx.save_for_backward(x, index, weight)
        ctx.side, ctx.stride = side, stride
        return out

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None, None, None]:
        x, index, weight = ctx.saved_tensors
        columns = weight.flatten(1)
        grad_x, grad_columns = empty_map(weight, *x.shape[:3]), torch.zeros_like(columns)
        for part in _slices(x, ctx.side):
            pixels = unpool(x[part], index[part], ctx.side).permute(0, 2, 3, 1).flatten(0, 2)  # (n*side^2, D)
            seen = F.unfold(grad[part].contiguous(), 3, padding=1, stride=ctx.stride)  # (n, C*9, side^2)
            seen = seen.mT.flatten(0, 1)  # (n*side^2, C*9)
            grad_columns.addmm_(pixels.T, seen)
            grad_maps = (seen @ columns.T).view(-1, ctx.side, ctx.side, x.shape[1]).permute(0, 3, 1, 2)
            grad_x[part] = pick(grad_maps, index[part])
        return grad_x, None, grad_columns.view(weight.shape), None, None, None


def _slices(x: Tensor, side: int, chained: bool = False) -> Iterator[slice]:
    return patch_slices(len(x), x.shape[1] * side * side * x.element_size(), x.device, chained)


class _Unpooled(nn.Module):
    """Weights of a transposed convolution of maps that are first un-pooled, initialised as PyTorch does."""

    def __init__(self, convolution: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self.stride, self.output_padding = convolution.stride[0], convolution.output_padding[0]


class UnpoolConvolution(_Unpooled):
    """3x3 transposed convolution, stride 1, of maps that are first un-pooled."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.ConvTranspose2d(channels, channels, 3, padding=1, bias=False))

    def forward(self, x: Tensor, index: Tensor, side: int) -> Tensor:
        """x (N, D, h, w), index of the same shape, into side x side -> (N, D, side, side)."""
        x, weight = to_autocast(x, self.weight)
        return _Convolution.apply(x, index, weight, side)


class UnpoolProjection(_Unpooled):
    """3x3 transposed convolution to few channels, of any stride, of maps that are first un-pooled."""

    def __init__(self, channels: int, out: int, stride: int, output_padding: int) -> None:
        super().__init__(nn.ConvTranspose2d(channels, out, 3, stride, 1, output_padding))

    def forward(self, x: Tensor, index: Tensor | None, side: int) -> Tensor:
        """x (N, D, h, w), index of the same shape or None (no un-pooling), into side x side -> (N, C, s, s)."""
        if index is None:
            return F.conv_transpose2d(x, self.weight, self.bias, self.stride, 1, self.output_padding)
        x, weight = to_autocast(x, self.weight)
        out_side = (side - 1) * self.stride + 1 + self.output_padding
        projected = _Projection.apply(x, index, weight, side, self.stride, out_side)
        return projected if self.bias is None else projected + self.bias[:, None, None]
