"""Operators as plain PyTorch, for whoever traces a model that is to run where this library is not installed."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .arguments import working_dtype
from .attention.dropout import keep_mask
from .attention.inputs import Inputs, statistics_dtype
from .attention.registration import attend
from .convolution import eager as convolution
from .convolution.registration import convolve
from .operators import replaced
from .pooling import eager as pooling
from .pooling.registration import pool
from .quantize import eager, reference
from .quantize import registration as quantize

__all__ = ["plain_operators"]


@contextlib.contextmanager
def plain_operators() -> Iterator[None]:
    """What ``torch.export``, ``torch.onnx`` or ``torch.jit.trace`` trace inside the block has PyTorch's operators.

    ::

        with torch.no_grad(), fusion.kernels.plain_operators():
            program = torch.export.export(model.eval(), (x,))

    For the forward pass of encoders: attention, and quantizers and bins that encode; not for losses. It computes what
    the operators do, but all at once: attention has its (B, H, Lq, Lk) logits in memory, the nearest code the N x K x D
    differences. Values of indices, edges and codes are not checked, for a graph has no branches. Calls that nobody
    traces run as ever.
    """
    with replaced(_FORMS):
        yield


def _attend(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The operator of :mod:`fusion.kernels.attention.registration`: output, ``largest`` and ``weight``."""
    x = Inputs(*args)
    dtype, device = statistics_dtype(x.query.dtype), x.query.device
    query, key, value, table = (t.to(dtype) for t in (x.query, x.key, x.value, x.table))
    rows = torch.arange(query.shape[2], device=device) if x.query_position is None else x.query_position.long()
    columns = torch.arange(key.shape[2], device=device) if x.key_position is None else x.key_position.long()
    index = x.bucket[rows[:, None], columns].long()  # (Lq, Lk)
    if x.key_valid is not None:  # their weights are 0, and so is the product of that with anything but inf and NaN
        unused = ~x.key_valid[:, None, :, None]
        key, value = key.masked_fill(unused, 0.0), value.masked_fill(unused, 0.0)
    scaled = x.scale * math.log2(math.e) * query
    logits = scaled @ key.mT  # (B, H, Lq, Lk), in units of ln 2
    if x.contextual:
        by_bucket = scaled @ table  # (B, H, Lq, K)
        logits = logits + by_bucket.gather(-1, index.expand(*by_bucket.shape[:3], -1))
    else:
        logits = logits + math.log2(math.e) * table[:, index]
    if x.key_valid is not None:
        logits = logits.masked_fill(~x.key_valid[:, None, None], -math.inf)
    top = logits.amax(-1)
    nothing = top == -math.inf
    largest = top.masked_fill(nothing, 0.0)
    powers = (logits - largest[..., None]).exp2()
    weight = powers.sum(-1).masked_fill(nothing, math.inf)
    if x.seed is not None:
        row = torch.arange(math.prod(weight.shape), device=device).view(weight.shape)
        powers = powers * keep_mask(x.seed, row, key.shape[2], x.dropout_p) / (1 - x.dropout_p)
    return (powers @ value / weight[..., None]).to(x.query.dtype), largest, weight


def _nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    dtype = working_dtype(x, codebook)
    return reference.nearest_code(x.to(dtype), codebook.to(dtype), metric=metric)


def _bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    return reference.bin_decode(codes, centres) if centres.ndim == 1 else reference.code_decode(codes, centres)


_FORMS: dict[torch._ops.OpOverload, Callable[..., Any]] = {
    attend: _attend,
    convolve: convolution.forward,
    pool: pooling.pool_dates,
    quantize.nearest_code: _nearest_code,
    quantize.finite_scalar_quantize: eager.finite_scalar_quantize,
    quantize.bin_encode: reference.bin_encode,
    quantize.bin_decode: _bin_decode,
}
