"""The first layers of the image encoder: convolution, batch norm, GELU, max-pool, as one step.

They hold the largest maps of the whole model (at 50 pixels three of 256x25x25 a patch), and none needs to exist:

* Batch norm is folded into the convolution. Its statistics are those of a linear function of the input, so they
  follow from the mean and covariance of the input's 3x3 neighbourhoods (C*9 numbers a pixel, not 256).
* The gradient of max-pool(GELU(z)) reaches z only where a maximum stood. Forward keeps z there, a quarter of
  the map; backward needs neither the rest nor a second convolution.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.autocast import differentiable_once, to_autocast, without_autocast
from .pooling import empty_map, index_dtype, layout, patch_slices, pick, pool, unpool

__all__ = ["Stem"]


class _ConvGeluPool(torch.autograd.Function):
    """max_pool(gelu(conv(x))) and the pooling positions, a few patches at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        side = (x.shape[-1] - 1) // stride + 1
        pooled = empty_map(weight, len(x), weight.shape[0], side // 2)
        peak = torch.empty_like(pooled)
        index = torch.empty_like(pooled, dtype=index_dtype(side))
        for part in patch_slices(len(x), _map_bytes(weight, side), x.device):
            z = F.conv2d(x[part], weight, bias, stride, padding=1)  # (n, D, side, side)
            pooled[part], index[part] = pool(F.gelu(z))
            peak[part] = pick(z, index[part])
        ctx.save_for_backward(x, weight, peak, index)
        ctx.stride = stride
        ctx.mark_non_differentiable(index)
        return pooled, index

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, Tensor, Tensor, None]:
        x, weight, peak, index = ctx.saved_tensors
        side = (x.shape[-1] - 1) // ctx.stride + 1
        grad_peak = torch.ops.aten.gelu_backward(grad, peak)  # (N, D, side//2, side//2)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight)
        for part in patch_slices(len(x), _map_bytes(weight, side), x.device):
            grad_z = unpool(grad_peak[part], index[part], side)
            part_x, part_weight = _convolution_backward(grad_z, x[part], weight, ctx.stride, grad_x is not None)
            grad_weight += part_weight
            if grad_x is not None and part_x is not None:
                grad_x[part] = part_x
        return grad_x, grad_weight, grad_peak.sum((0, 2, 3)), None


def _map_bytes(weight: Tensor, side: int) -> int:
    return weight.shape[0] * side * side * weight.element_size()


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, input_too: bool
) -> tuple[Tensor | None, Tensor]:
    """Gradients of the input, if wanted, and of the weight."""
    one, wanted = [1, 1], (input_too, True, False)
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride, stride], one, one, False, [0, 0], 1, wanted
    )
    return grad_x, grad_weight


class _Convolution(nn.Conv2d):
    bias: Tensor  # there is one


class _BatchNorm(nn.BatchNorm2d):
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float


class Stem(nn.Module):
    """GELU(batch_norm(conv3x3(x))), then a 2x2 max-pool where the map is larger than one pixel."""

    def __init__(self, channels: int, dim: int, stride: int, pooled: bool) -> None:
        super().__init__()
        self.conv = _Convolution(channels, dim, 3, stride, padding=1)
        self.norm = _BatchNorm(dim)
        self.pooled = pooled

    def folded(self, patches: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of the convolution with the batch norm inside, for all ``patches`` (N, C, s, s).

        ``valid`` (N,) bool: patches that count in the statistics. None in inference, which needs no folding.
        """
        if not (self.training or torch.is_grad_enabled()):
            return None
        with without_autocast(patches.device.type):
            mean, var = (_float(x) for x in (self.norm.running_mean, self.norm.running_var))
            if self.norm.training:
                mean, var = self._batch_statistics(patches, valid)
            scale = self.norm.weight * (var + self.norm.eps).rsqrt()  # (D,), float32 at least
            weight = (self.conv.weight * scale[:, None, None, None]).to(self.conv.weight.dtype)
            bias = ((self.conv.bias - mean) * scale + self.norm.bias).to(self.conv.bias.dtype)
        return weight.contiguous(memory_format=layout(self.conv.weight)), bias

    def forward(self, patches: Tensor, folded: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor | None]:
        """Some of the patches (n, C, s, s) -> maps (n, D, h, h), pooling positions or None."""
        if folded is None:
            return self._infer(patches)
        patches, weight, bias = to_autocast(patches, *folded)
        stride = self.conv.stride[0]
        if not self.pooled:
            return F.gelu(F.conv2d(patches, weight, bias, stride, padding=1)), None
        return _ConvGeluPool.apply(patches, weight, bias, stride)

    def _infer(self, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """The layers as they are, a few patches at a time: nothing has to be kept."""
        side = (patches.shape[-1] - 1) // self.conv.stride[0] + 1
        maps = []
        for part in patch_slices(patches.shape[0], _map_bytes(self.conv.weight, side), patches.device):
            z = F.gelu(self.norm(self.conv(patches[part])))  # (n, D, side, side)
            maps.append(pool(z) if self.pooled else (z, None))
        pooled, indices = zip(*maps, strict=True)
        return torch.cat(pooled), torch.cat(indices) if self.pooled else None

    def _batch_statistics(self, patches: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance of the convolution over all pixels of the valid patches, each (D,)."""
        mean, covariance, count = _neighbourhood_statistics(patches, valid, self.conv.stride[0])
        kernel = _float(self.conv.weight).flatten(1)  # (D, C*9); rounded, variances could come out below 0
        mean = F.linear(mean.to(kernel.dtype), kernel, _float(self.conv.bias))  # (D,)
        var = ((kernel @ covariance.to(kernel.dtype)) * kernel).sum(1)  # (D,)
        with torch.no_grad():
            dtype = self.norm.running_mean.dtype
            rate = self.norm.momentum * (count > 1).to(dtype)
            unbiased = var * (count / (count - 1).clamp_min(1)).to(mean.dtype)
            self.norm.running_mean.lerp_(mean.to(dtype), rate)
            self.norm.running_var.lerp_(unbiased.to(dtype), rate)
            self.norm.num_batches_tracked.add_(1)
        return mean, var


def _neighbourhood_statistics(patches: Tensor, valid: Tensor | None, stride: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (K,), covariance (K, K) and number of the K = C*9 values under a 3x3 kernel, in float64.

    float64 because one pass over raw 8-bit data would lose the variance beside the squared mean.
    """
    width = patches.shape[1] * 9
    total = patches.new_zeros(width, dtype=torch.float64)
    products = patches.new_zeros(width, width, dtype=torch.float64)
    pixels = ((patches.shape[-1] - 1) // stride + 1) ** 2
    for part in patch_slices(len(patches), width * pixels * 8, patches.device):
        seen = F.unfold(patches[part].to(torch.float64).contiguous(), 3, padding=1, stride=stride)  # (n, K, pixels)
        if valid is not None:
            seen = seen * valid[part, None, None]
        total = total + seen.sum((0, 2))
        products = products + (seen @ seen.mT).sum(0)
    count = pixels * (patches.new_tensor(len(patches)) if valid is None else valid.sum())
    shared = count.clamp_min(1)
    mean = total / shared
    return mean, products / shared - torch.outer(mean, mean), count


def _float(x: Tensor) -> Tensor:
    """float32 from half precision."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
