"""Reductions and normalisations that leave out what was not observed.

A padded date or a missing tile must neither shift a mean nor change what its neighbours become.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .autocast import differentiable_once, without_autocast

__all__ = ["MaskedBatchNorm", "MaskedGroupNorm", "masked_mean", "masked_softmax", "standardise"]


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``values`` (same shape as ``valid``) where ``valid``; 0 where nothing is."""
    weight = valid.to(values.dtype)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def masked_softmax(scores: Tensor, valid: Tensor | None, dim: int) -> Tensor:
    """Softmax over the valid entries of ``dim``; zero elsewhere, and all zero where none is valid.

    ``valid`` broadcasts against ``scores``; None means that all are.
    """
    if valid is None:
        return scores.softmax(dim)
    lowest = torch.finfo(scores.dtype).min  # not -inf: a row without a valid entry must not become NaN
    return scores.masked_fill(~valid, lowest).softmax(dim) * valid


class _Standardise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps), saving only the result: autograd through the formula keeps four copies.

    Sums over rows are matrix products with the weights, so no weighted copy of x is made.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        per_group = x.shape[-1] // groups
        count = (weight.sum(2, keepdim=True) * per_group).clamp_min(1)  # (K|1, 1, 1)
        mean = _by_group(weight @ x, groups) / count  # (K, 1, C)
        centred = x - mean
        var = _by_group(weight @ centred.square(), groups) / count
        scale = (var + eps).rsqrt()
        out = centred.mul_(scale)
        ctx.save_for_backward(out, weight, scale, count)
        ctx.groups = groups
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor, None, None, None]:
        out, weight, scale, count = ctx.saved_tensors
        mean = _by_group(grad.sum(1, keepdim=True), ctx.groups) / count  # (K, 1, C)
        slope = _by_group((grad * out).sum(1, keepdim=True), ctx.groups) / count
        shift = torch.addcmul(mean, out, slope).mul_(weight.mT)  # rows without weight move no statistic
        return torch.sub(grad, shift, out=shift).mul_(scale), None, None, None


def _by_group(sums: Tensor, groups: int) -> Tensor:
    """Sums of channels (K, 1, C) -> every channel's sum over its group (K, 1, C)."""
    width = sums.shape[-1] // groups
    return sums if width == 1 else sums.unflatten(-1, (groups, width)).sum(-1).repeat_interleave(width, -1)


def standardise(x: Tensor, weight: Tensor, groups: int, *, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zero mean and unit (biased) variance of every group of channels over the rows with weight.

    Args:
        x: (K, L, C), K samples of L rows, each with statistics of its own.
        weight: (K, 1, L) or (1, 1, L), 1 where a row counts and 0 where not.
        groups: of adjacent channels that share statistics; C for each its own.

    Returns:
        The standardised rows, and mean and variance (K, 1, C) and number of values (K or 1, 1, 1) that they were
        made with, which carry no gradient. Rows without weight are transformed alike, and receive the gradient
        of that transformation; the caller leaves them out.
    """
    with without_autocast(x.device.type):  # statistics in half precision would be useless
        if x.dtype in (torch.bfloat16, torch.float16):
            x, weight = x.float(), weight.float()
        return _Standardise.apply(x, weight, groups, eps)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (..., C) whose statistics leave out what is not valid.

    Without ``valid``, or in evaluation, it is ``nn.BatchNorm1d`` over all leading axes.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (..., C); valid (...), or None. float32 from half precision, unless the layer's own weights are in that."""
        if valid is None or not self.training:
            return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        weight = valid.expand(x.shape[:-1]).reshape(1, 1, -1).to(x.dtype)
        out, mean, var, count = standardise(x.reshape(1, -1, x.shape[-1]), weight, x.shape[-1], eps=self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                dtype, count = self.running_mean.dtype, count.flatten()
                rate = self.momentum * (count > 1).to(dtype)  # a batch without observations teaches nothing
                unbiased = var.flatten() * (count / (count - 1).clamp_min(1))
                self.running_mean.lerp_(mean.flatten().to(dtype), rate)
                self.running_var.lerp_(unbiased.to(dtype), rate)
                self.num_batches_tracked.add_(1)
        return _weighted(out, self.weight, self.bias).view(x.shape)


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalisation of sequences (B, P, L, C) over the valid dates and the channels of each group."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, P, L, C); valid (B, L) or None. The dtype of the result is that of :class:`MaskedBatchNorm`."""
        patches, length = x.shape[1:3]
        weight = x.new_ones(1, 1, length)
        if valid is not None:
            weight = valid.to(x.dtype).repeat_interleave(patches, 0)[:, None]  # (B*P, 1, L)
        out, *_ = standardise(x.flatten(0, 1), weight, self.num_groups, eps=self.eps)
        return _weighted(out, self.weight, self.bias).view(x.shape)


def _weighted(out: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``out weight + bias``; in half precision for weights in it, as the layer that comes next has them, too."""
    result = torch.addcmul(bias, out, weight)
    return result.to(weight.dtype) if weight.dtype in (torch.bfloat16, torch.float16) else result
