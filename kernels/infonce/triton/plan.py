"""How a pass over tokens of one shape is launched: its tiles, column splits, padding and constants."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture, multiprocessors, row
from .primitives import COLDEST_NUMBER
from .tiles import INTERPRETED, TILES

__all__ = ["Plan", "halves", "plan_for", "row_constants", "shift_kinds", "tile_constants"]

_MOST_SPLITS = 8
# Products of tokens by features from which half of the tiles save more than their zeroed column sums cost.
_HALVED_FROM = 1_500_000_000
_KEPT = 256  # features that a program keeps of its rows; wider tokens are read again for every tile
_FLUSHED = 1024  # columns that a tensor core adds up where operands are split; see backward_kernel
_ALL = 1 << 30
_ROW_ELEMENTS = 4096  # entries of the tile of the kernels that go row by row
_TILES_OF = {"square": "halved"}


@dataclass(frozen=True)
class Plan:
    """How one pass over tokens of one shape is launched: all that follows from numbers alone."""

    tile: Tile
    halved: bool
    row_blocks: int
    splits: int
    padded: int  # tokens, with padding
    stride: int  # features, with padding
    feature_blocks: int  # programs that share the features of a gradient
    split: bool
    of_tiles: dict[str, Any]  # constants of the kernels that work by tiles
    row_grid: tuple[int]
    of_rows: dict[str, Any]  # of those that go by rows
    prepare_grid: tuple[int]
    _known: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)

    def constants(self, by_rows: bool, **flags: bool) -> dict[str, Any]:
        """All constants of one launch: those of the plan with flags of the call; put together once."""
        key = (by_rows, *flags.items())
        if key not in self._known:
            self._known[key] = (self.of_rows if by_rows else self.of_tiles) | flags
        return self._known[key]


@functools.lru_cache(maxsize=256)
def plan_for(
    device: torch.device,
    interpreted: bool,
    dtype: torch.dtype,
    tokens: int,
    rows: int,
    dim: int,
    anchored: bool,
    name: str,
) -> Plan:
    """The launch of pass ``name``: ``halved``, ``forward``, ``square`` (forward by halved's tiles) or ``backward``."""
    split, wide = dtype == torch.float32, dim > _KEPT
    if interpreted:
        tile = INTERPRETED
    else:
        kind = "split" if split else "half"
        tile = row(TILES, architecture(device), kind, _TILES_OF.get(name, name) + wide * " wide")
    row_blocks = triton.cdiv(rows, tile.rows)
    halved = name == "halved"
    most = row_blocks // 2 + 1 if halved else triton.cdiv(tokens, tile.columns)
    of_tiles = tile_constants(tile, dim, split, name, anchored)
    of_rows = row_constants(dim, split)
    padded = triton.cdiv(tokens, 256) * 256
    return Plan(
        tile=tile,
        halved=halved,
        row_blocks=row_blocks,
        splits=_splits(row_blocks, most, multiprocessors(device), tokens, name == "backward"),
        padded=padded,
        stride=of_tiles["STRIDE"],
        feature_blocks=triton.cdiv(of_tiles["STRIDE"], _KEPT),
        split=split,
        of_tiles=of_tiles | {"num_warps": tile.warps, "num_stages": tile.stages},
        row_grid=(triton.cdiv(rows, of_rows["ROWS"]),),
        of_rows=of_rows,
        prepare_grid=(triton.cdiv(padded, of_rows["ROWS"]),),
    )


def tile_constants(tile: Tile, dim: int, split: bool, name: str, anchored: bool) -> dict[str, Any]:
    """Constants of the kernel of tiles of pass ``name``, but for the flags of a call."""
    wide = dim > _KEPT
    stride = _stride(dim)
    out = min(64, stride) if split else min(stride, _KEPT)  # features of a product; see primitives._add_product
    chunk = tile.depth or 64 if wide else out
    constants = {"ROWS": tile.rows, "STRIDE": stride, "CHUNK": chunk, "SPLIT": split, "WIDE": wide}
    if name != "halved":
        constants |= {"COLUMNS": tile.columns, "ANCHORED": anchored}
    if name == "backward":
        constants |= {"BLOCK_D": min(stride, _KEPT), "OUT": out}
        constants |= {"FLUSH": max(1, _FLUSHED // tile.columns) if split else _ALL}
    return constants


def row_constants(dim: int, split: bool) -> dict[str, Any]:
    """Constants of the kernels that go row by row, but for the flags of a call."""
    padded = triton.next_power_of_2(_stride(dim))
    rows = max(1, min(32, _ROW_ELEMENTS // padded))
    return {"D": dim, "STRIDE": _stride(dim), "PADDED_D": padded, "ROWS": rows, "SPLIT": split}


def _stride(dim: int) -> int:
    """Features with padding."""
    return int(triton.cdiv(dim, _KEPT)) * _KEPT if dim > _KEPT else max(16, int(triton.next_power_of_2(dim)))


def _splits(row_blocks: int, most: int, slots: int, columns: int, stored: bool) -> int:
    """Column splits: the fewest that are nearly the fastest.

    The time is that of ``columns`` columns over the share of multiprocessors that the last wave keeps busy and, where
    a gradient is ``stored`` for every split, of writing and reading it: as long as the products with 500 columns, at
    250 operations a byte.
    """
    choices = range(1, min(_MOST_SPLITS, max(most, 1)) + 1)
    busy = {s: row_blocks * s / (slots * triton.cdiv(row_blocks * s, slots)) for s in choices}
    cost = {s: columns / busy[s] + 500 * s * stored for s in choices}
    return next(s for s in choices if cost[s] <= 1.05 * min(cost.values()))


def halves(rows: int, dim: int, row_blocks: int) -> bool:
    """Whether half of the tiles serve rows and columns.

    That is where the work is worth it, the column sums are no larger than N x D, and 32 bits number them.
    """
    return rows**2 * dim >= _HALVED_FROM and row_blocks <= 2 * dim and rows * row_blocks < 1 << 32


def shift_kinds(temperature: Tensor | None, value: float, normalize: bool) -> tuple[bool, ...]:
    """Which kinds of tile kernel to launch, with one shift for all rows or not: both where the host knows not."""
    if not normalize:
        return (False,)
    if temperature is not None:
        return (True, False)
    (rounded,) = struct.unpack("f", struct.pack("f", value))  # as the kernels get it
    return (rounded >= COLDEST_NUMBER,)
