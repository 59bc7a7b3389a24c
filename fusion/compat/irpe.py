"""A stand-in for ``rpe_ops``, the compiled operator of the iRPE code, for models that hold its attention maps.

There it is ``RPEIndexFunction.apply(input, index)``; here the same by that name, or :func:`rpe_index`. A model that
can give up the maps is better served by :func:`fusion.kernels.relative_attention`, which never makes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..kernels.attention.buckets import extent
from ..kernels.attention.eager import sums_by_bucket
from ..kernels.attention.inputs import statistics_dtype
from ..kernels.memory import transforming
from ..kernels.modules import has_values

__all__ = ["EXPECTED_VERSION", "RPEIndexFunction", "rpe_index"]

EXPECTED_VERSION = "1.2.0"  # of the compiled operator whose place this takes

_BLOCK = 1 << 22  # elements of one block of one-hot rows in the backward pass


def rpe_index(input: Tensor, index: Tensor) -> Tensor:
    """``output[b, h, i, j] = input[b, h, i, index[i, j]]``: the bias of each pair of tokens from that of each bucket.

    The backward pass adds up the gradients of a bucket as a product with one-hot rows: the same bits every time,
    unlike a scatter by atomics, on the CPU and on a GPU. Differentiable any number of times, any float dtype.

    Args:
        input: (B, H, Lq, K) float, a value for each bucket.
        index: (Lq, Lk) integer in 0..K-1, the bucket of each pair.

    Returns:
        (B, H, Lq, Lk) in the dtype of ``input``.

    Raises:
        TypeError: ``index`` does not hold integers.
        ValueError: shapes, devices or index values that do not fit.

    Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer", ICCV 2021.
    """
    return RPEIndexFunction.apply(input, index)


class RPEIndexFunction(torch.autograd.Function):
    """The operator under the name and in the form it has in the original: ``RPEIndexFunction.apply(input, index)``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, index: Tensor) -> Tensor:
        """As :func:`rpe_index`, which says what is refused."""
        _check(input, index)
        return input.gather(3, index.long().expand(*input.shape[:2], -1, -1))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        input, index = inputs
        ctx.save_for_backward(index)
        ctx.buckets = input.shape[3]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return _SumBuckets.apply(gradient, index, ctx.buckets), None


class _SumBuckets(torch.autograd.Function):
    """(B, H, Lq, Lk) to (B, H, Lq, K), the transpose of the above."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, index: Tensor, buckets: int) -> Tensor:
        queries, keys = index.shape
        step = max(1, _BLOCK // max(1, keys * buckets))
        parts = []
        for start in range(0, queries, step):
            rows = slice(start, start + step)
            block = gradient[:, :, rows].to(statistics_dtype(gradient.dtype))
            parts.append(sums_by_bucket(block, index[rows], buckets).to(gradient.dtype))
        return torch.cat(parts, 2) if parts else gradient.new_zeros((*gradient.shape[:2], 0, buckets))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
        _, index, ctx.buckets = inputs
        ctx.save_for_backward(index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (index,) = ctx.saved_tensors
        return RPEIndexFunction.apply(gradient, index), None, None


def _check(input: Tensor, index: Tensor) -> None:
    if index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
        raise TypeError(f"rpe_index: index is {index.dtype}; it must hold integers")
    if input.dim() != 4 or index.dim() != 2 or input.shape[2] != index.shape[0]:
        given = f"{tuple(input.shape)} and {tuple(index.shape)}"
        raise ValueError(f"rpe_index: input must be (B, H, Lq, K) and index (Lq, Lk), got {given}")
    if input.device != index.device:
        raise ValueError(f"rpe_index: input is on {input.device}, index on {index.device}; move one of them")
    if index.numel() and not torch.compiler.is_compiling() and has_values(index) and not transforming():
        low, high = extent(index)
        if low < 0 or high >= input.shape[3]:
            wrong = low if low < 0 else high
            raise ValueError(f"rpe_index: index holds {wrong}, outside 0..{input.shape[3] - 1}")
