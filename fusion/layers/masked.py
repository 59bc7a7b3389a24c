"""Reductions and normalisations that leave out what was not observed.

A padded date or a missing tile must neither shift a mean nor change what its neighbours become. ``valid`` is
boolean and has fewer axes than the values it belongs to: it is matched from the left, so (B, L) belongs to
(B, L, C).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
    """(x - mean) / sqrt(var + eps), saving only the result: autograd through the formula keeps four copies."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, dims: tuple[int, ...], eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if weight is None:
            count = x.new_tensor(float(_extent(x.shape, dims)))
            var, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
            centred = x - mean
        else:
            repeats = _extent([n if w == 1 else 1 for n, w in zip(x.shape, weight.shape, strict=True)], dims)
            count = (weight.sum(dims, keepdim=True) * repeats).clamp_min(1)
            mean = (x * weight).sum(dims, keepdim=True) / count
            centred = x - mean
            var = (centred.square() * weight).sum(dims, keepdim=True) / count
        scale = (var + eps).rsqrt()
        out = centred.mul_(scale)
        ctx.save_for_backward(out, weight, scale, count)
        ctx.dims = dims
        ctx.mark_non_differentiable(mean, var, count)
        return out, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor, None, None, None]:
        out, weight, scale, count = ctx.saved_tensors
        total = grad.sum(ctx.dims, keepdim=True) / count
        slope = (grad * out).sum(ctx.dims, keepdim=True) / count
        shift = torch.addcmul(total.expand_as(out), out, slope)
        if weight is not None:
            shift.mul_(weight)
        return torch.sub(grad, shift).mul_(scale), None, None, None


def _extent(shape: Any, dims: tuple[int, ...]) -> int:
    product = 1
    for dim in dims:
        product *= shape[dim]
    return product


def standardise(
    x: Tensor, valid: Tensor | None, dims: tuple[int, ...], *, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zero mean and unit (biased) variance over ``dims``, statistics from valid entries only.

    ``valid`` is matched to ``x`` from the left. Returns the standardised values, and the mean, variance and
    number of entries they were made with (constants: no gradient). Entries that are not valid are transformed
    alike and receive the gradient of that transformation; the caller leaves them out.
    """
    weight = None
    if valid is not None:
        weight = valid.to(x.dtype).reshape(*valid.shape, *(1,) * (x.ndim - valid.ndim))
    return _Standardise.apply(x, weight, dims, eps)


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (..., C) whose statistics leave out what is not valid.

    Without ``valid``, or in evaluation, it is ``nn.BatchNorm1d`` over all leading axes.
    """

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (..., C); valid (...) matched from the left, or None."""
        if valid is None or not self.training:
            return super().forward(x.reshape(-1, x.shape[-1])).view(x.shape)
        dims = tuple(range(x.ndim - 1))
        out, mean, var, count = standardise(x, valid, dims, eps=self.eps)
        if self.track_running_stats:
            with torch.no_grad():
                dtype, count = self.running_mean.dtype, count.flatten()
                rate = self.momentum * (count > 1).to(dtype)  # a batch without observations teaches nothing
                unbiased = var.flatten() * (count / (count - 1).clamp_min(1))
                self.running_mean.lerp_(mean.flatten().to(dtype), rate)
                self.running_var.lerp_(unbiased.to(dtype), rate)
                self.num_batches_tracked.add_(1)
        return torch.addcmul(self.bias, out, self.weight)


class MaskedGroupNorm(nn.GroupNorm):
    """Group normalisation of sequences (B, P, L, C) over the valid dates and the channels of each group."""

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """x (B, P, L, C); valid (B, L) or None."""
        grouped = x.unflatten(-1, (self.num_groups, -1))  # (B, P, L, G, C/G)
        valid = None if valid is None else valid[:, None]  # (B, 1, L)
        out, *_ = standardise(grouped, valid, (2, 4), eps=self.eps)
        return torch.addcmul(self.bias, out.flatten(-2), self.weight)
