"""Tiles of the attention kernels, by architecture, dtype and pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton

from ..._triton.device import Tile, row

__all__ = ["EUCLIDEAN_TILES", "TILES", "tile_for"]

# By compute capability, width of an operand in bytes, and pass; rows are queries, columns keys; for head dimensions up
# to 32. Chosen by instructions a score and warps in flight under Triton 3.6 (benchmarks/README.md). One or two warps:
# with four, Triton takes Hopper's wgmma on sm_90, which an H100 runs slower than mma.sync at these sizes: its
# tiles are those of sm_86.
TILES: dict[tuple[Any, ...], Tile] = {
    (86, 2, "forward"): Tile(64, 32, 2, 2),
    (86, 2, "queries"): Tile(32, 64, 2, 2),
    (86, 2, "keys"): Tile(32, 32, 1, 2),
    (86, 4, "forward"): Tile(32, 32, 4, 2),
    (86, 4, "queries"): Tile(32, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 32, 4, 2),
}
# Where buckets follow from coordinates: the table is euclidean_buckets'.
EUCLIDEAN_TILES: dict[tuple[Any, ...], Tile] = {
    (86, 2, "forward"): Tile(32, 64, 2, 2),
    (86, 2, "queries"): Tile(32, 64, 2, 2),
    (86, 2, "keys"): Tile(64, 32, 2, 2),
    (86, 4, "forward"): Tile(64, 64, 4, 2),
    (86, 4, "queries"): Tile(64, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 64, 4, 2),
}


def tile_for(architecture: int, width: int, name: str, dim: int, euclidean: bool = False) -> Tile:
    """The tile of pass ``name`` for operands of ``width`` bytes; smaller ones for wide heads."""
    tile = row(EUCLIDEAN_TILES if euclidean else TILES, architecture, width, name)
    own = max(16, 4096 // triton.next_power_of_2(dim))  # rows that a program keeps, and those that it walks through
    walked = max(16, own // 2)
    rows, columns = (walked, own) if name == "keys" else (own, walked)
    return replace(tile, rows=min(tile.rows, rows), columns=min(tile.columns, columns))
