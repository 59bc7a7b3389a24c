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

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture, row
from ..dropout import threshold
from ..eager import empty_like_heads
from ..layout import Layout
from .backward import keys_kernel, queries_kernel, rows_kernel, table_kernel
from .blocks import kinds_kernel, order_kernel
from .forward import forward_kernel

__all__ = ["EUCLIDEAN_TILES", "TILES", "backward", "forward", "tile_for"]

# By compute capability, width of an operand in bytes, and pass; rows are queries, columns keys; for head dimensions up
# to 32. Chosen by instructions a score and warps in flight under Triton 3.6 (benchmarks/README.md). One or two warps:
# with four, Triton takes Hopper's wgmma on sm_90, which an H100 runs slower than mma.sync at these sizes.
TILES = {
    (86, 2, "forward"): Tile(64, 32, 2, 2),
    (86, 2, "queries"): Tile(32, 64, 2, 2),
    (86, 2, "keys"): Tile(32, 32, 1, 2),
    (86, 4, "forward"): Tile(32, 32, 4, 2),
    (86, 4, "queries"): Tile(32, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 32, 4, 2),
    (90, 2, "forward"): Tile(64, 32, 2, 2),
    (90, 2, "queries"): Tile(32, 64, 2, 2),
    (90, 2, "keys"): Tile(32, 32, 1, 2),
    (90, 4, "forward"): Tile(32, 32, 4, 2),
    (90, 4, "queries"): Tile(32, 32, 4, 2),
    (90, 4, "keys"): Tile(32, 32, 4, 2),
}
# Where buckets follow from coordinates: the table is euclidean_buckets'.
EUCLIDEAN_TILES = {
    (86, 2, "forward"): Tile(32, 64, 2, 2),
    (86, 2, "queries"): Tile(32, 64, 2, 2),
    (86, 2, "keys"): Tile(64, 32, 2, 2),
    (86, 4, "forward"): Tile(64, 64, 4, 2),
    (86, 4, "queries"): Tile(64, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 64, 4, 2),
    (90, 2, "forward"): Tile(32, 64, 2, 2),
    (90, 2, "queries"): Tile(32, 64, 2, 2),
    (90, 2, "keys"): Tile(64, 32, 2, 2),
    (90, 4, "forward"): Tile(64, 64, 4, 2),
    (90, 4, "queries"): Tile(64, 32, 4, 2),
    (90, 4, "keys"): Tile(32, 64, 4, 2),
}
_PRECISION = "ieee"  # of float32 products: tf32 would be rounded by truncation on sm_86
_ROWS = 64  # rows of a program of rows_kernel


def tile_for(architecture: int, width: int, name: str, dim: int, euclidean: bool = False) -> Tile:
    """The tile of pass ``name`` for operands of ``width`` bytes; smaller ones for wide heads."""
    tile = row(EUCLIDEAN_TILES if euclidean else TILES, architecture, width, name)
    own = max(16, 4096 // triton.next_power_of_2(dim))  # rows that a program keeps, and those that it walks through
    walked = max(16, own // 2)
    rows, columns = (walked, own) if name == "keys" else (own, walked)
    return replace(tile, rows=min(tile.rows, rows), columns=min(tile.columns, columns))


def _order(layout: Layout, tile: Tile, by_key: bool) -> tuple[Tensor, Tensor]:
    """For each block of queries (or of keys) the blocks of the other, by kind, and how many are of the first ones."""

    def make() -> tuple[Tensor, Tensor]:
        table, device = layout.table, layout.table.index.device
        own, walked = triton.cdiv(layout.queries, tile.rows), triton.cdiv(layout.keys, tile.columns)
        if by_key:
            own, walked = walked, own
        kinds = torch.empty((own, walked), dtype=torch.int8, device=device)
        order = torch.empty((own, walked), dtype=torch.int32, device=device)
        counts = torch.empty((own, 2), dtype=torch.int32, device=device)
        kinds_kernel[(own, walked)](
            table.index, layout.query_position, layout.key_position, kinds, table.positions, table.extra,
            layout.queries, layout.keys, QUERIES=tile.rows, KEYS=tile.columns, BY_KEY=by_key,
        )  # fmt: skip
        order_kernel[(own,)](kinds, order, counts, walked, WALKED=triton.next_power_of_2(walked))
        return order, counts

    return layout.remember(("order", tile.rows, tile.columns, by_key), make)


@dataclass(frozen=True)
class _Pass:
    """What a launch of one pass takes that does not change from call to call."""

    grid: tuple[int]
    blocks: int
    tensors: tuple[Tensor, ...]  # bucket table, places of queries and of keys, order, counts
    options: dict[str, Any]


class _Plan:
    """Everything about a call but its tensors: made once for a layout, shapes, dtype and options."""

    @classmethod
    def of(cls, query: Tensor, key: Tensor, table: Tensor, indices: tuple, valid: bool, dropout_p: float) -> _Plan:
        layout = Layout.of(*indices, query.shape[2], key.shape[2], table.shape[-1])
        known = query.shape, query.dtype, table.shape, valid, dropout_p
        return layout.remember(known, lambda: cls(layout, query, table, valid, dropout_p))

    def __init__(self, layout: Layout, query: Tensor, table: Tensor, valid: bool, dropout_p: float) -> None:
        batch, self.heads, self.queries, dim = query.shape
        self.layout, self.width, self.at = layout, query.element_size(), architecture(query.device)
        self.dim, self.pairs = dim, batch * self.heads
        self.rows, self.near = self.pairs * self.queries, layout.table.near
        self.dropout = threshold(dropout_p), 1 / (1 - dropout_p)
        self.of_table = {"CONTEXTUAL": table.dim() == 3, "SHARED": table.shape[0] == 1}
        self.live = {"BLOCK_L": max(8, triton.next_power_of_2(self.near + 1))}  # buckets that have a bias
        self.of_rows = {
            **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "NEAR": self.near},
            **{"EUCLIDEAN": layout.table.euclidean},
        }
        self.common = self.of_rows | {"VALID": valid, "DROPOUT": dropout_p > 0, "PRECISION": _PRECISION}
        self.rows_grid = (triton.cdiv(self.queries, _ROWS) * self.pairs,)
        self.columns = dim if table.dim() == 3 else 1  # numbers of a bucket

    @functools.cached_property
    def forward(self) -> _Pass:
        return self._pass("forward", self.common | self.of_table | self.live)

    @functools.cached_property
    def backward(self) -> tuple[_Pass, _Pass]:
        near = {"BLOCK_N": triton.next_power_of_2(max(self.near, 1))}
        return self._pass("queries", self.common | self.of_table | near), self._pass("keys", self.common)

    def _pass(self, name: str, options: dict[str, Any]) -> _Pass:
        layout, by_key = self.layout, name == "keys"
        tile = tile_for(self.at, self.width, name, self.dim, layout.table.euclidean >= 0)
        blocks = triton.cdiv(layout.keys, tile.columns) if by_key else triton.cdiv(layout.queries, tile.rows)
        tensors = layout.table.index, layout.query_place, layout.key_place, *_order(layout, tile, by_key)
        launch = {"QUERIES": tile.rows, "KEYS": tile.columns, "num_warps": tile.warps, "num_stages": tile.stages}
        return _Pass((blocks * self.pairs,), blocks, tensors, options | launch)


def _with_unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def forward(
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
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = _with_unit_stride(query), _with_unit_stride(key), _with_unit_stride(value)
    output = empty_like_heads(query)
    largest, weight = (torch.empty(query.shape[:3], dtype=torch.float32, device=query.device) for _ in range(2))
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), largest.zero_(), weight.fill_(float("inf"))
    plan = _Plan.of(query, key, table, (bucket, query_position, key_position), key_valid is not None, dropout_p)
    one, layout = plan.forward, plan.layout
    bias = torch.empty((plan.near, plan.rows), dtype=torch.float32, device=query.device)
    forward_kernel[one.grid](
        query, key, value, table.contiguous(), layout.table.live, *one.tensors,
        query if key_valid is None else key_valid.contiguous().view(torch.uint8),
        query if seed is None else seed, bias, output, largest, weight,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        plan.heads, plan.queries, layout.keys, layout.table.positions, table.shape[-1], plan.rows, scale, *plan.dropout,
        **one.options,
    )  # fmt: skip
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
    bucket: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    key_valid: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, value, grad_output, output = map(_with_unit_stride, (query, key, value, grad_output, output))
    gradients = empty_like_heads(query), empty_like_heads(key), empty_like_heads(value)
    if query.numel() == 0 or key.numel() == 0:
        return *(g.zero_() for g in gradients), torch.zeros_like(table)
    plan = _Plan.of(query, key, table, (bucket, query_position, key_position), key_valid is not None, dropout_p)
    layout, rows, near = plan.layout, plan.rows, plan.near
    of_queries, of_keys = plan.backward
    table = table.contiguous()
    valid = query if key_valid is None else key_valid.contiguous().view(torch.uint8)
    seed = query if seed is None else seed
    of_query, of_grad = query.stride()[:3], grad_output.stride()[:3]
    strides = *of_query, *key.stride()[:3], *value.stride()[:3], *of_grad
    buckets = table.shape[-1]

    by_row = torch.empty((5 + near if dropout_p > 0 else 3 + near, rows), dtype=torch.float32, device=query.device)
    rows_kernel[plan.rows_grid](
        query, output, grad_output, table, layout.table.live, layout.query_place, largest.contiguous(),
        weight.contiguous(), seed, by_row,
        *of_query, *output.stride()[:3], *of_grad, plan.heads, plan.queries, buckets, rows, scale,
        QUERIES=_ROWS, DROPOUT=dropout_p > 0, **plan.of_table, **plan.of_rows, **plan.live,
    )  # fmt: skip
    numbers = plan.heads, plan.queries, layout.keys, layout.table.positions
    partial = torch.empty((plan.pairs, of_queries.blocks, near, plan.columns), dtype=torch.float32, device=query.device)
    queries_kernel[of_queries.grid](
        query, key, value, grad_output, table, layout.table.live, *of_queries.tensors, valid, seed, by_row,
        gradients[0], partial,
        *strides, *numbers, buckets, rows, scale, *plan.dropout, **of_queries.options,
    )  # fmt: skip
    keys_kernel[of_keys.grid](
        query, key, value, grad_output, *of_keys.tensors, valid, by_row, *gradients[1:],
        *strides, *numbers, rows, scale, *plan.dropout, **of_keys.options,
    )  # fmt: skip
    return *gradients, _grad_table(partial, table, plan)


def _grad_table(partial: Tensor, table: Tensor, plan: _Plan) -> Tensor:
    """Adds up the shares of the near buckets in a fixed order; the far bucket's gradient is minus their sum."""
    shared = table.shape[0] == 1
    if shared:
        near = partial.sum((0, 1))  # (NEAR, columns)
    else:
        near = partial.unflatten(0, (-1, plan.heads)).sum((0, 2))  # (H, NEAR, columns)
    gradient = torch.empty_like(table)
    buckets = table.shape[-1]
    table_kernel[(table.shape[0],)](
        near, plan.layout.table.live, gradient, buckets, plan.columns, NEAR=plan.near,
        BLOCK_D=triton.next_power_of_2(plan.columns), BUCKETS=triton.next_power_of_2(buckets),
    )  # fmt: skip
    return gradient
