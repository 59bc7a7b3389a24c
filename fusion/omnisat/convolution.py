"""Backward passes of 3x3 convolutions of small maps as matrix products, in bfloat16 on a CPU.

There oneDNN takes three times as long as the products for maps of 3 x 3 pixels, and half as long again for 6 x 6
(benchmarks/README.md). Both products share the neighbourhoods of the gradient, ``seen`` (N*h*w, 9*D'): the gradient of
the input is ``seen @ kernel.mT``, that of the kernel ``x.mT @ seen``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.autocast import differentiable_once, to_autocast

__all__ = ["Convolution", "as_products", "products_backward"]

_LARGEST = 6  # pixels per side


def as_products(maps: Tensor) -> bool:
    """Whether maps (N, D, h, w) are of those whose backward pass is faster as products."""
    return maps.device.type == "cpu" and maps.dtype == torch.bfloat16 and maps.shape[-1] <= _LARGEST


def products_backward(grad: Tensor, x: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the input and of the kernel of a 3x3 convolution with padding 1.

    Args:
        grad: (N, D', h, w). x: (N, D, h, w), the input.
        kernel: (D, 3, 3, D'), what each neighbour's gradient of every channel counts for the input's.

    Returns:
        Like ``x``, in channels-last memory, and like ``kernel``.
    """
    count, height, width = len(x), *x.shape[2:]
    padded = F.pad(grad.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # (N, h+2, w+2, D')
    parts = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    seen = torch.cat(parts, -1).view(count * height * width, -1)
    grad_x = (seen @ kernel.flatten(1).mT).view(count, height, width, -1).permute(0, 3, 1, 2)
    grad_kernel = x.permute(0, 2, 3, 1).reshape(seen.shape[0], -1).mT @ seen
    return grad_x, grad_kernel.view(kernel.shape)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x, turned = products_backward(grad, x, weight.flip(2, 3).permute(1, 2, 3, 0))
        return grad_x, turned.permute(3, 0, 1, 2).flip(2, 3)


class Convolution(nn.Conv2d):
    """Of stride 1, without a bias, into maps of the same size."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__(channels, out, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, D, h, w) -> (N, D', h, w)."""
        if self.kernel_size == (3, 3) and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            maps, weight = to_autocast(x, self.weight)
            if as_products(maps):
                out: Tensor = _Convolution.apply(maps, weight)
                return out
        return super().forward(x)
