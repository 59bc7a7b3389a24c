"""How attention of one layout, shape and dtype is launched: grids, constants, and in which order blocks are visited."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture
from ..._triton.launch import launch
from ..dropout import threshold
from ..inputs import Inputs
from ..layout import Layout
from .blocks import kinds_kernel, order_kernel
from .tiles import tile_for

__all__ = ["ROWS", "Pass", "Plan", "order_blocks"]

ROWS = 64  # rows of a program of rows_kernel
_PRECISION = "ieee"  # of float32 products: tf32 would be rounded by truncation on sm_86


def order_blocks(layout: Layout, tile: Tile, by_key: bool) -> tuple[Tensor, Tensor]:
    """For each block of queries (or of keys) the blocks of the other, by kind, and how many are of the first ones."""

    def make() -> tuple[Tensor, Tensor]:
        table, device = layout.table, layout.table.index.device
        own, walked = triton.cdiv(layout.queries, tile.rows), triton.cdiv(layout.keys, tile.columns)
        if by_key:
            own, walked = walked, own
        kinds = torch.empty((own, walked), dtype=torch.int8, device=device)
        order = torch.empty((own, walked), dtype=torch.int32, device=device)
        counts = torch.empty((own, 2), dtype=torch.int32, device=device)
        launch(kinds_kernel, (own, walked),
            table.index, layout.query_position, layout.key_position, kinds, table.positions, table.extra,
            layout.queries, layout.keys, QUERIES=tile.rows, KEYS=tile.columns, BY_KEY=by_key,
        )  # fmt: skip
        launch(order_kernel, (own,), kinds, order, counts, walked, WALKED=triton.next_power_of_2(walked))
        return order, counts

    return layout.remember(("order", tile.rows, tile.columns, by_key), make)


@dataclass(frozen=True)
class Pass:
    """What a launch of one pass takes that does not change from call to call."""

    grid: tuple[int]
    blocks: int
    tensors: tuple[Tensor, ...]  # bucket table, places of queries and of keys, order, counts
    options: dict[str, Any]


class Plan:
    """Everything about a call but its tensors: made once for a layout, shapes, dtype and options."""

    @classmethod
    def of(cls, x: Inputs) -> Plan:
        positions = x.query_position, x.key_position
        layout = Layout.of(x.bucket, *positions, x.query.shape[2], x.key.shape[2], x.buckets)
        known = x.query.shape, x.query.dtype, x.table.shape, x.key_valid is None, x.dropout_p
        return layout.remember(known, lambda: cls(layout, x))

    def __init__(self, layout: Layout, x: Inputs) -> None:
        batch, self.heads, self.queries, dim = x.query.shape
        self.layout, self.width, self.at = layout, x.query.element_size(), architecture(x.query.device)
        self.dim, self.pairs = dim, batch * self.heads
        self.rows, self.near = self.pairs * self.queries, layout.table.near
        self.dropout = threshold(x.dropout_p), 1 / (1 - x.dropout_p)
        self.of_table = {"CONTEXTUAL": x.contextual, "SHARED": x.table.shape[0] == 1}
        self.live = {"BLOCK_L": max(8, triton.next_power_of_2(self.near + 1))}  # buckets that have a bias
        self.of_rows = {
            **{"D": dim, "BLOCK_D": max(16, triton.next_power_of_2(dim)), "NEAR": self.near},
            **{"EUCLIDEAN": layout.table.euclidean},
        }
        self.common = {
            **{**self.of_rows, "VALID": x.key_valid is not None},
            **{"DROPOUT": x.dropout_p > 0, "PRECISION": _PRECISION},
        }
        self.rows_grid = (triton.cdiv(self.queries, ROWS) * self.pairs,)
        self.columns = dim if x.contextual else 1  # numbers of a bucket

    @functools.cached_property
    def forward(self) -> Pass:
        return self._pass("forward", self.common | self.of_table | self.live)

    @functools.cached_property
    def backward(self) -> tuple[Pass, Pass]:
        near = {"BLOCK_N": triton.next_power_of_2(max(self.near, 1))}
        return self._pass("queries", self.common | self.of_table | near), self._pass("keys", self.common)

    def _pass(self, name: str, options: dict[str, Any]) -> Pass:
        layout, by_key = self.layout, name == "keys"
        tile = tile_for(self.at, self.width, name, self.dim, layout.table.euclidean >= 0)
        blocks = triton.cdiv(layout.keys, tile.columns) if by_key else triton.cdiv(layout.queries, tile.rows)
        tensors = layout.table.index, layout.query_place, layout.key_place, *order_blocks(layout, tile, by_key)
        launch = {"QUERIES": tile.rows, "KEYS": tile.columns, "num_warps": tile.warps, "num_stages": tile.stages}
        return Pass((blocks * self.pairs,), blocks, tensors, options | launch)
