"""Relative-position attention on the GPU: forward, dQ with the table's gradient, dK with dV; no atomics.

Logits are in units of ln 2. The bias of the most frequent ("far") bucket is subtracted from every row, which
softmax does not see, so only the other ("near") buckets need a bias and a gradient sum: the far one's gradient is
minus the sum of theirs. Pairs of blocks that are far throughout, 71 % of a 32 x 32 grid in blocks of 64, need
neither; every block of rows has a list of its column blocks, mixed ones first, and walks the two parts in turn.
Which bucket a pair is in is looked up, or follows from coordinates where the table is ``euclidean_buckets``' and
that costs less (``EUCLIDEAN_TILES``).

    forward  S = Q K^T + bias,  O = P V                                       4 Lq Lk D operations
    rows     what backward needs of a row: shift, 1 / weight, sum(dO O), the near biases
    queries  dS = P (dO V^T - sum(dO O)),  dQ = dS K + dT R,  dR = Q^T dT     6 Lq Lk D
    keys     dK = dS^T Q,  dV = P^T dO                                        8 Lq Lk D
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture, row, tiles_of
from ..dropout import threshold
from ..eager import empty_like_heads
from ..layout import Layout
from .backward import keys_kernel, queries_kernel, rows_kernel
from .forward import forward_kernel
from .primitives import block_kernel

__all__ = ["EUCLIDEAN_TILES", "TILES", "backward", "forward", "tile_for"]

# By compute capability, width of an operand in bytes, and pass; rows are queries, columns keys; for head dimensions up
# to 32. sm_90's by kernel time on an H100 (1 or 2 warps: with 4, Triton takes Hopper's wgmma, whose 64 rows cost
# more registers than it saves), sm_86's by what they compile to (benchmarks/README.md).
TILES = {
    (86, 2, "forward"): Tile(64, 32, 4, 2),
    (86, 2, "queries"): Tile(64, 32, 4, 2),
    (86, 2, "keys"): Tile(64, 64, 4, 2),
    (86, 4, "forward"): Tile(32, 32, 4, 2),
    (86, 4, "queries"): Tile(32, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 32, 4, 2),
    (90, 2, "forward"): Tile(64, 32, 2, 2),
    (90, 2, "queries"): Tile(64, 32, 2, 2),
    (90, 2, "keys"): Tile(64, 32, 2, 2),
    (90, 4, "forward"): Tile(32, 32, 4, 2),
    (90, 4, "queries"): Tile(32, 32, 4, 2),
    (90, 4, "keys"): Tile(32, 32, 4, 2),
}
# The passes that work Euclidean buckets out from coordinates; the others look them up, which costs them less.
EUCLIDEAN_TILES = {
    (86, 2, "forward"): Tile(64, 64, 4, 2),
    (86, 4, "forward"): Tile(32, 32, 4, 2),
    (86, 4, "queries"): Tile(32, 32, 4, 2),
    (90, 2, "forward"): Tile(32, 64, 2, 2),
    (90, 2, "queries"): Tile(64, 32, 2, 2),
    (90, 4, "forward"): Tile(32, 32, 4, 2),
    (90, 4, "queries"): Tile(32, 32, 4, 2),
}
_PRECISION = "ieee"  # of float32 products: tf32 would be rounded by truncation on sm_86
_ROWS = 64  # rows of a program of rows_kernel and block_kernel


def tile_for(architecture: int, width: int, name: str, dim: int, euclidean: bool = False) -> Tile:
    """The tile of pass ``name`` for operands of ``width`` bytes; smaller ones for wide heads."""
    tile = row(EUCLIDEAN_TILES if euclidean else TILES, architecture, width, name)
    own = max(16, 4096 // triton.next_power_of_2(dim))  # rows that a program keeps, and those that it walks through
    walked = max(16, own // 2)
    rows, columns = (walked, own) if name == "keys" else (own, walked)
    return replace(tile, rows=min(tile.rows, rows), columns=min(tile.columns, columns))


def _tile(query: Tensor, name: str, layout: Layout) -> tuple[Tile, tuple[Tensor, ...], dict[str, int]]:
    """The tile, and what the kernel finds buckets by: arguments (table, of queries, of keys) and its form."""
    at = tiles_of(architecture(query.device)), query.element_size(), name
    euclidean = layout.euclidean >= 0 and at in EUCLIDEAN_TILES
    tile = tile_for(*at, query.shape[-1], euclidean)
    if euclidean:
        return tile, (layout.index, layout.query_place, layout.key_place), {"EUCLIDEAN": layout.euclidean}
    return tile, (layout.index, layout.query_position, layout.key_position), {"EUCLIDEAN": -1}


def _order(layout: Layout, tile: Tile, by_key: bool) -> tuple[Tensor, Tensor]:
    """For each block of queries (or of keys) the blocks of the other, mixed ones first, and their number."""

    def make() -> tuple[Tensor, Tensor]:
        blocks = triton.cdiv(layout.queries, tile.rows), triton.cdiv(layout.keys, tile.columns)
        mixed = torch.empty(blocks, dtype=torch.int8, device=layout.index.device)
        block_kernel[blocks](
            layout.index, layout.query_position, layout.key_position, mixed,
            layout.positions, layout.queries, layout.keys, tile.rows, tile.columns,
        )  # fmt: skip
        mixed = mixed.T if by_key else mixed
        order = mixed.argsort(dim=1, descending=True, stable=True)
        return order.int().contiguous(), mixed.sum(1, dtype=torch.int32)

    return layout.remember(("order", tile.rows, tile.columns, by_key), make)


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.stride()[:3]


def _with_unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _options(query: Tensor, layout: Layout, key_valid: Tensor | None, dropout_p: float) -> dict:
    dim = query.shape[-1]
    return {
        "D": dim,
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        "NEAR": layout.live.numel() - 1,
        "VALID": key_valid is not None,
        "DROPOUT": dropout_p > 0,
        "PRECISION": _PRECISION,
    }


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
    query, key, value = (_with_unit_stride(t) for t in (query, key, value))
    batch, heads, queries, _ = query.shape
    output = empty_like_heads(query)
    largest, weight = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), largest.zero_(), weight.fill_(float("inf"))
    layout = Layout.of(bucket, query_position, key_position, queries, key.shape[2], table.shape[-1])
    tile, places, form = _tile(query, "forward", layout)
    rows = batch * heads * queries
    bias = query.new_empty((layout.live.numel() - 1, rows), dtype=torch.float32)
    forward_kernel[(triton.cdiv(queries, tile.rows) * batch * heads,)](
        query, key, value, table.contiguous(), layout.live, *places,
        *_order(layout, tile, by_key=False), query if key_valid is None else key_valid.contiguous().view(torch.uint8),
        query if seed is None else seed, bias, output, largest, weight,
        *_strides(query), *_strides(key), *_strides(value),
        heads, queries, key.shape[2], layout.positions, table.shape[-1], rows, scale, threshold(dropout_p),
        1 / (1 - dropout_p),
        QUERIES=tile.rows, KEYS=tile.columns, CONTEXTUAL=table.dim() == 3, SHARED=table.shape[0] == 1,
        num_warps=tile.warps, num_stages=tile.stages, **form,
        **_options(query, layout, key_valid, dropout_p),
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
    query, key, value, grad_output, output = (_with_unit_stride(t) for t in (query, key, value, grad_output, output))
    batch, heads, queries, dim = query.shape
    gradients = [empty_like_heads(t) for t in (query, key, value)]
    if query.numel() == 0 or key.numel() == 0:
        return *(g.zero_() for g in gradients), torch.zeros_like(table)
    layout = Layout.of(bucket, query_position, key_position, queries, key.shape[2], table.shape[-1])
    rows, near = batch * heads * queries, layout.live.numel() - 1
    contextual, table = table.dim() == 3, table.contiguous()
    valid = query if key_valid is None else key_valid.contiguous().view(torch.uint8)
    seed = query if seed is None else seed
    options = _options(query, layout, key_valid, dropout_p)
    numbers = queries, key.shape[2], layout.positions
    strides = *_strides(query), *_strides(key), *_strides(value), *_strides(grad_output)
    of_table = {"CONTEXTUAL": contextual, "SHARED": table.shape[0] == 1}

    by_row = query.new_empty((3 + near, rows), dtype=torch.float32)
    rows_kernel[(triton.cdiv(queries, _ROWS) * batch * heads,)](
        query, output, grad_output, table, layout.live, largest.contiguous(), weight.contiguous(), by_row,
        *_strides(query), *_strides(output), *_strides(grad_output), heads, queries, table.shape[-1], rows, scale,
        QUERIES=_ROWS, **of_table, **{name: options[name] for name in ("D", "BLOCK_D", "NEAR")},
    )  # fmt: skip

    tile, places, form = _tile(query, "queries", layout)
    blocks = triton.cdiv(queries, tile.rows)
    partial = query.new_empty((batch, heads, blocks, near, *((dim,) if contextual else ())), dtype=torch.float32)
    queries_kernel[(blocks * batch * heads,)](
        query, key, value, grad_output, table, layout.live, *places,
        *_order(layout, tile, by_key=False), valid, seed, by_row, gradients[0], partial,
        *strides, heads, *numbers, table.shape[-1], rows, scale, threshold(dropout_p), 1 / (1 - dropout_p),
        QUERIES=tile.rows, KEYS=tile.columns, BLOCK_N=triton.next_power_of_2(max(near, 1)), **of_table,
        num_warps=tile.warps, num_stages=tile.stages, **form, **options,
    )  # fmt: skip

    tile, places, _ = _tile(query, "keys", layout)
    keys_kernel[(triton.cdiv(key.shape[2], tile.columns) * batch * heads,)](
        query, key, value, grad_output, *places, *_order(layout, tile, by_key=True), valid, seed, by_row,
        *gradients[1:],
        *strides, heads, *numbers, rows, scale, threshold(dropout_p), 1 / (1 - dropout_p),
        QUERIES=tile.rows, KEYS=tile.columns, num_warps=tile.warps, num_stages=tile.stages, **options,
    )  # fmt: skip
    return *gradients, _grad_table(partial, table, layout.live)


def _grad_table(partial: Tensor, table: Tensor, live: Tensor) -> Tensor:
    """Adds up the shares of the near buckets in a fixed order; the far bucket's gradient is minus their sum."""
    near = partial.sum((0, 1, 2) if table.shape[0] == 1 else (0, 2), dtype=torch.float32)
    near = near.reshape(table.shape[0], partial.shape[3], *table.shape[1:-1]).movedim(1, -1)  # (1|H, [D], NEAR)
    gradient = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    gradient.index_copy_(-1, live.long(), torch.cat([-near.sum(-1, keepdim=True), near], -1))
    return gradient.to(table.dtype)
