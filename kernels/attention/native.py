"""The compiled CPU backend of attention: brings the arguments into the form csrc/cpu/attention.h takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..memory import remember
from ..operators import declare_native
from .inputs import Inputs, empty_like_heads, with_unit_stride
from .layout import live_buckets

__all__ = ["backward", "forward", "refuses"]

_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor live, int positions, "
    "Tensor query_position, Tensor key_position, Tensor? key_valid, Tensor? seed, float dropout_p, float scale"
)
_forward = declare_native(
    f"relative_attention_cpp({_INPUTS}, Tensor(a!) output, Tensor(b!) largest, Tensor(c!) weight) -> ()"
)
_backward = declare_native(
    f"relative_attention_backward_cpp({_INPUTS}, Tensor grad_output, Tensor output, Tensor largest, Tensor weight, "
    "Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value, Tensor(d!) grad_table) -> ()"
)

_REGISTER_BUCKETS = 16  # kRegisterBuckets in csrc/cpu/attention.h
_SPARE = 64  # entries that may be read beyond the bucket table


def refuses(x: Inputs) -> str | None:
    """Why the compiled backend cannot run this call, or None."""
    if x.query.dtype not in (torch.float32, torch.bfloat16):
        return f"computes float32 and bfloat16, not {x.query.dtype}"
    if x.buckets > 1 << 16:
        return f"holds bucket numbers in 16 bits, too few for {x.buckets} buckets"
    return None


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, H, Lq, D), and ``largest`` and ``weight`` (B, H, Lq) as registration.py defines them."""
    output = empty_like_heads(x.query)
    largest, weight = (x.query.new_empty(x.query.shape[:3], dtype=torch.float32) for _ in range(2))
    _forward(*_arguments(x), output, largest, weight)
    return output, largest, weight


def backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, x: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and table."""
    grad_query, grad_key, grad_value = (empty_like_heads(t) for t in (x.query, x.key, x.value))
    grad_table = torch.empty(x.table.shape, dtype=torch.float32)
    _backward(
        *_arguments(x),
        *(with_unit_stride(t) for t in (grad_output, output)),
        *(largest.contiguous(), weight.contiguous()),
        *(grad_query, grad_key, grad_value, grad_table),
    )
    return grad_query, grad_key, grad_value, grad_table.to(x.table.dtype)


def _arguments(x: Inputs) -> tuple[Any, ...]:
    positions = [
        torch.arange(tokens, dtype=torch.int32) if position is None else position.to(torch.int32).contiguous()
        for position, tokens in ((x.query_position, x.query.shape[2]), (x.key_position, x.key.shape[2]))
    ]
    return (
        *(with_unit_stride(t) for t in (x.query, x.key, x.value)),
        x.table.to(torch.float32).contiguous(),
        *(_compact(x.bucket, x.buckets), live_buckets(x.bucket, x.buckets), x.bucket.shape[0]),
        *positions,
        None if x.key_valid is None else x.key_valid.contiguous(),
        *(x.seed, x.dropout_p, x.scale),
    )


def _compact(bucket: Tensor, buckets: int) -> Tensor:
    """The bucket table in 8 or 16 bits, with the spare entries."""

    def make() -> Tensor:
        dtype = torch.uint8 if buckets <= _REGISTER_BUCKETS else torch.uint16
        compact = torch.zeros(bucket.numel() + _SPARE, dtype=dtype)
        compact[: bucket.numel()] = bucket.reshape(-1).to(dtype)
        return compact

    return remember((bucket,), ("compact", buckets), make)
