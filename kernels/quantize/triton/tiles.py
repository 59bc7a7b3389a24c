"""Tiles of the quantization kernels: of the search by architecture, of the others by the length of a row."""

from __future__ import annotations

from typing import Any

import triton

from ..._triton.device import Tile, interpreting, row

__all__ = ["BLOCK", "INTERPRETED", "NEAREST_TILES", "block", "row_block", "tile_for"]

# Of nearest_kernel, by compute capability and depth: rows are vectors, columns codes, depth the values of a vector
# multiplied at once. Vectors of up to 128 values stay on the chip, split; longer ones pass through in pieces.
NEAREST_TILES: dict[tuple[Any, ...], Tile] = {
    (86, 16): Tile(128, 64, 8, 2, 16),
    (86, 32): Tile(128, 64, 8, 2, 32),
    (86, 64): Tile(128, 64, 8, 2, 64),
    (86, 128): Tile(128, 32, 8, 2, 128),
    (86, 256): Tile(128, 64, 8, 3, 32),
    (90, 16): Tile(64, 64, 4, 3, 16),
    (90, 32): Tile(128, 32, 8, 3, 32),
    (90, 64): Tile(128, 32, 8, 3, 64),
    (90, 128): Tile(128, 32, 8, 3, 128),
    (90, 256): Tile(128, 64, 8, 3, 32),
}
INTERPRETED = Tile(32, 32, 1, 1, 16)
BLOCK = 2048  # values of a program of bins, and of one that keeps rows whole, if it holds more than one


def tile_for(architecture: int, dim: int) -> Tile:
    """The tile of ``nearest_kernel`` for vectors of ``dim`` values."""
    return row(NEAREST_TILES, architecture, min(256, max(16, triton.next_power_of_2(dim))))


def row_block(dim: int, rows: int) -> tuple[dict[str, int], tuple[int]]:
    """The sizes of a kernel that keeps rows of ``dim`` values whole, and its grid."""
    columns = triton.next_power_of_2(dim)
    height = max(1, block() // columns)
    shape = {"D": dim, "ROWS": height, "COLUMNS": columns, "num_warps": max(4, columns // 512)}
    return shape, (triton.cdiv(rows, height),)


def block() -> int:
    """BLOCK, or less in the interpreter."""
    return 256 if interpreting() else BLOCK
