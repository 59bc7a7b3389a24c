"""The compiled CPU backend: brings the arguments into the form csrc/cpu/attention.h takes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import remember
from ..operators import declare_native
from .eager import empty_like_heads
from .layout import live_buckets

__all__ = ["backward", "forward", "refuses", "refuses_backward"]

_INPUTS = (
    "Tensor query, Tensor key, Tensor value, Tensor table, Tensor bucket, Tensor live, int positions, "
    "Tensor query_position, Tensor key_position, Tensor? key_valid, Tensor? seed, float dropout_p, float scale"
)
declare_native(f"relative_attention_cpp({_INPUTS}, Tensor(a!) output, Tensor(b!) largest, Tensor(c!) weight) -> ()")
declare_native(
    f"relative_attention_backward_cpp({_INPUTS}, Tensor grad_output, Tensor output, Tensor largest, Tensor weight, "
    "Tensor(a!) grad_query, Tensor(b!) grad_key, Tensor(c!) grad_value, Tensor(d!) grad_table) -> ()"
)

_REGISTER_BUCKETS = 16  # kRegisterBuckets in csrc/cpu/attention.h
_SPARE = 64  # entries that may be read beyond the bucket table


def refuses(query: Tensor, key: Tensor, value: Tensor, table: Tensor, *rest: object) -> str | None:
    if query.dtype not in (torch.float32, torch.bfloat16):
        return f"computes float32 and bfloat16, not {query.dtype}"
    if table.shape[-1] > 1 << 16:
        return f"holds bucket numbers in 16 bits, too few for {table.shape[-1]} buckets"
    return None


def refuses_backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, *inputs: Tensor
) -> str | None:
    return refuses(*inputs)


def forward(query: Tensor, key: Tensor, value: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    output = empty_like_heads(query)
    largest, weight = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    torch.ops.fusion.relative_attention_cpp(*_arguments(query, key, value, *rest), output, largest, weight)
    return output, largest, weight


def backward(
    grad_output: Tensor,
    output: Tensor,
    largest: Tensor,
    weight: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    *rest: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gradients = [empty_like_heads(t) for t in (query, key, value)]
    grad_table = torch.empty(table.shape, dtype=torch.float32)
    torch.ops.fusion.relative_attention_backward_cpp(
        *_arguments(query, key, value, table, *rest),
        *(_with_unit_stride(t) for t in (grad_output, output)),
        *(largest.contiguous(), weight.contiguous()),
        *gradients,
        grad_table,
    )
    return *gradients, grad_table.to(table.dtype)


def _with_unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bucket: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    key_valid: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
) -> tuple:
    buckets = table.shape[-1]
    positions = [
        torch.arange(tokens, dtype=torch.int32) if position is None else position.to(torch.int32).contiguous()
        for position, tokens in ((query_position, query.shape[2]), (key_position, key.shape[2]))
    ]
    return (
        *(_with_unit_stride(t) for t in (query, key, value)),
        table.to(torch.float32).contiguous(),
        *(_compact(bucket, buckets), live_buckets(bucket, buckets), bucket.shape[0]),
        *positions,
        None if key_valid is None else key_valid.contiguous(),
        *(seed, dropout_p, scale),
    )


def _compact(bucket: Tensor, buckets: int) -> Tensor:
    """The bucket table in 8 or 16 bits, with the spare entries."""

    def make() -> Tensor:
        dtype = torch.uint8 if buckets <= _REGISTER_BUCKETS else torch.uint16
        compact = torch.zeros(bucket.numel() + _SPARE, dtype=dtype)
        compact[: bucket.numel()] = bucket.reshape(-1).to(dtype)
        return compact

    return remember((bucket,), ("compact", buckets), make)
