"""Relative-position attention on the GPU: forward, dQ with the table's gradient, dK with dV; no atomics.

Logits are in units of ln 2. The bias of the most frequent ("far") bucket is subtracted from every row, which
softmax does not see, so only the other ("near") buckets need a bias and a gradient sum: the far one's gradient is
minus the sum of theirs. Pairs of blocks that are far throughout, 66 % of a 32 x 32 grid's, need neither. Every block
of rows has a list of the blocks that it walks through: those that need masks, then mixed ones, then far ones. Which
bucket a pair is in is looked up, or follows from coordinates where the table is ``euclidean_buckets``'.

    forward  S = Q K^T + bias,  O = P V                                       4 Lq Lk D operations
    rows     what backward needs of a row: shift, 1 / weight, sum(dO O), the near biases
    queries  dS = P (dO V^T - sum(dO O)),  dQ = dS K + dT R,  dR = Q^T dT     6 Lq Lk D
    keys     dK = dS^T Q,  dV = P^T dO                                        8 Lq Lk D
    table    dR summed over tiles and queries, in a fixed order
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..._triton.launch import launch
from ..inputs import Inputs, empty_like_heads, with_unit_stride
from .backward import keys_kernel, queries_kernel
from .forward import forward_kernel
from .plan import ROWS, Plan
from .rows import rows_kernel, table_kernel

__all__ = ["backward", "forward"]


def forward(x: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Output (B, H, Lq, D), and ``largest`` and ``weight`` (B, H, Lq) as registration.py defines them."""
    query, key, value, table, seed = *map(with_unit_stride, x[:3]), x.table, x.seed
    output = empty_like_heads(query)
    largest, weight = (torch.empty(query.shape[:3], dtype=torch.float32, device=query.device) for _ in range(2))
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), largest.zero_(), weight.fill_(float("inf"))
    plan = Plan.of(x)
    one, layout = plan.forward, plan.layout
    bias = torch.empty((plan.near, plan.rows), dtype=torch.float32, device=query.device)
    launch(forward_kernel, one.grid,
        query, key, value, table.contiguous(), layout.table.live, *one.tensors,
        query if x.key_valid is None else x.key_valid.contiguous().view(torch.uint8),
        query if seed is None else seed, bias, output, largest, weight,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        plan.heads, plan.queries, layout.keys, layout.table.positions, x.buckets, plan.rows, x.scale, *plan.dropout,
        **one.options,
    )  # fmt: skip
    return output, largest, weight


def backward(
    grad_output: Tensor, output: Tensor, largest: Tensor, weight: Tensor, x: Inputs
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and table."""
    query, key, value, grad_output, output = map(with_unit_stride, (*x[:3], grad_output, output))
    grad_query, grad_key, grad_value = (empty_like_heads(t) for t in (query, key, value))
    if query.numel() == 0 or key.numel() == 0:
        return grad_query.zero_(), grad_key.zero_(), grad_value.zero_(), torch.zeros_like(x.table)
    plan = Plan.of(x)
    layout, rows, near = plan.layout, plan.rows, plan.near
    of_queries, of_keys = plan.backward
    table, buckets = x.table.contiguous(), x.buckets
    valid = query if x.key_valid is None else x.key_valid.contiguous().view(torch.uint8)
    seed = query if x.seed is None else x.seed
    of_query, of_grad = query.stride()[:3], grad_output.stride()[:3]
    strides = *of_query, *key.stride()[:3], *value.stride()[:3], *of_grad

    by_row = torch.empty((5 + near if x.dropout_p > 0 else 3 + near, rows), dtype=torch.float32, device=query.device)
    launch(rows_kernel, plan.rows_grid,
        query, output, grad_output, table, layout.table.live, layout.query_place, largest.contiguous(),
        weight.contiguous(), seed, by_row,
        *of_query, *output.stride()[:3], *of_grad, plan.heads, plan.queries, buckets, rows, x.scale,
        QUERIES=ROWS, DROPOUT=x.dropout_p > 0, **plan.of_table, **plan.of_rows, **plan.live,
    )  # fmt: skip
    numbers = plan.heads, plan.queries, layout.keys, layout.table.positions
    partial = torch.empty((plan.pairs, of_queries.blocks, near, plan.columns), dtype=torch.float32, device=query.device)
    launch(queries_kernel, of_queries.grid,
        query, key, value, grad_output, table, layout.table.live, *of_queries.tensors, valid, seed, by_row,
        grad_query, partial,
        *strides, *numbers, buckets, rows, x.scale, *plan.dropout, **of_queries.options,
    )  # fmt: skip
    launch(keys_kernel, of_keys.grid,
        query, key, value, grad_output, *of_keys.tensors, valid, by_row, grad_key, grad_value,
        *strides, *numbers, rows, x.scale, *plan.dropout, **of_keys.options,
    )  # fmt: skip
    return grad_query, grad_key, grad_value, _grad_table(partial, table, plan)


def _grad_table(partial: Tensor, table: Tensor, plan: Plan) -> Tensor:
    """Adds up the shares of the near buckets in a fixed order; the far bucket's gradient is minus their sum."""
    shared = table.shape[0] == 1
    if shared:
        near = partial.sum((0, 1))  # (NEAR, columns)
    else:
        near = partial.unflatten(0, (-1, plan.heads)).sum((0, 2))  # (H, NEAR, columns)
    gradient = torch.empty_like(table)
    buckets = table.shape[-1]
    launch(table_kernel, (table.shape[0],),
        near, plan.layout.table.live, gradient, buckets, plan.columns, NEAR=plan.near,
        BLOCK_D=triton.next_power_of_2(plan.columns), BUCKETS=triton.next_power_of_2(buckets),
    )  # fmt: skip
    return gradient
