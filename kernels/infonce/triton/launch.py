"""Launches the kernels of patch InfoNCE: tiles by architecture, column splits, work space."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture, interpreting, multiprocessors, row
from ..reference import NO_DIRECTION, TIE
from .backward import backward_kernel
from .forward import forward_kernel, halved_kernel
from .prepare import prepare_kernel
from .primitives import COLDEST_NUMBER
from .rows import gradients_kernel, losses_kernel

__all__ = ["TILES", "Plan", "backward", "forward", "plan_for", "row_constants", "tile_constants"]

_MOST_SPLITS = 8
# Products of tokens by features from which half of the tiles save more than their zeroed column sums cost.
_HALVED_FROM = 1_500_000_000
_KEPT = 256  # features that a program keeps of its rows; wider tokens are read again for every tile
_FLUSHED = 1024  # columns that a tensor core adds up where operands are split; see backward_kernel
_ALL = 1 << 30
ROW_ELEMENTS = 4096  # entries of the tile of the kernels that go row by row

# By architecture, operands ("half": 16 bits, "split": float32 in two) and pass ("halved" forward has square tiles);
# "wide": more than 256 features. sm_90 measured on an H100, sm_86 counted: benchmarks/README.md.
TILES: dict[tuple[Any, ...], Tile] = {
    (86, "half", "halved"): Tile(64, 64, 4, 3),
    (86, "half", "forward"): Tile(128, 32, 8, 3),
    (86, "half", "backward"): Tile(64, 64, 8, 2),
    (86, "half", "halved wide"): Tile(128, 128, 8, 3, 32),
    (86, "half", "forward wide"): Tile(128, 64, 8, 3, 32),
    (86, "half", "backward wide"): Tile(64, 64, 8, 2, 32),
    (86, "split", "halved"): Tile(32, 32, 2, 2),
    (86, "split", "forward"): Tile(32, 32, 2, 2),
    (86, "split", "backward"): Tile(32, 32, 4, 2),
    (86, "split", "halved wide"): Tile(64, 64, 4, 3, 32),
    (86, "split", "forward wide"): Tile(64, 64, 4, 3, 32),
    (86, "split", "backward wide"): Tile(32, 32, 4, 2, 32),
    (90, "half", "halved"): Tile(128, 128, 4, 2),
    (90, "half", "forward"): Tile(256, 64, 8, 3),
    (90, "half", "backward"): Tile(128, 64, 8, 3),
    (90, "half", "halved wide"): Tile(128, 128, 4, 3, 64),
    (90, "half", "forward wide"): Tile(128, 128, 4, 3, 64),
    (90, "half", "backward wide"): Tile(128, 128, 8, 3, 64),
    (90, "split", "halved"): Tile(64, 64, 4, 2),
    (90, "split", "forward"): Tile(128, 64, 8, 1),
    (90, "split", "backward"): Tile(128, 32, 8, 2),
    (90, "split", "halved wide"): Tile(128, 128, 8, 3, 32),
    (90, "split", "forward wide"): Tile(128, 128, 8, 3, 32),
    (90, "split", "backward wide"): Tile(128, 64, 8, 1, 64),
}
_TILES_OF = {"square": "halved"}
_INTERPRETED = Tile(32, 32, 4, 1)


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
        tile = _INTERPRETED
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
    rows = max(1, min(32, ROW_ELEMENTS // padded))
    return {"D": dim, "STRIDE": _stride(dim), "PADDED_D": padded, "ROWS": rows, "SPLIT": split}


def _stride(dim: int) -> int:
    """Features with padding."""
    return triton.cdiv(dim, _KEPT) * _KEPT if dim > _KEPT else max(16, triton.next_power_of_2(dim))


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


def _halves(rows: int, dim: int, row_blocks: int) -> bool:
    """Whether half of the tiles serve rows and columns.

    That is where the work is worth it, the column sums are no larger than N x D, and 32 bits number them.
    """
    return rows**2 * dim >= _HALVED_FROM and row_blocks <= 2 * dim and rows * row_blocks < 1 << 32


def _kinds(temperature: Tensor | None, value: float, normalize: bool) -> tuple[bool, ...]:
    """Which kinds of tile kernel to launch, with one shift for all rows or not: both where the host knows not."""
    if not normalize:
        return (False,)
    if temperature is not None:
        return (True, False)
    (rounded,) = struct.unpack("f", struct.pack("f", value))  # as the kernels get it
    return (rounded >= COLDEST_NUMBER,)


class _Tokens:
    """The tokens prepared for the tiles of one pass: directions, shifts, edges and, for backward, weights."""

    __slots__ = ("edges", "high", "log_z", "low", "shift", "temperature", "unit", "weight")

    def __init__(
        self,
        plan: Plan,
        tokens: Tensor,
        modality: Tensor,
        block: Tensor,
        anchored: bool,
        temperature: Tensor | None,
        value: float,
        normalize: bool,
        inverse: Tensor,
        grad: Tensor | None = None,
        log_z: Tensor | None = None,
    ) -> None:
        device, split, backward = tokens.device, plan.split, grad is not None
        self.temperature = tokens if temperature is None else temperature
        shape = plan.padded, plan.stride
        self.high = torch.empty(shape, dtype=torch.float16 if split else tokens.dtype, device=device)
        self.low = torch.empty_like(self.high) if split else self.high
        self.shift = self.weight = self.log_z = torch.empty(plan.padded, dtype=torch.float32, device=device)
        if backward:
            self.weight, self.log_z = torch.empty_like(self.shift), torch.empty_like(self.shift)
        self.edges = torch.empty((plan.row_blocks, 4), dtype=torch.int32, device=device)
        self.unit = torch.empty_like(self.shift) if split else self.shift
        prepare_kernel[plan.prepare_grid](
            *(tokens, modality, block, self.temperature),
            *((grad, log_z) if backward else (self.shift, self.shift)),
            *(self.weight, self.log_z, self.high, self.low, self.unit, inverse, self.shift, self.edges),
            *(len(tokens), plan.padded, 0 if anchored else plan.row_blocks, value, plan.tile.rows),
            **plan.constants(True, NORMALIZE=normalize, BACKWARD=backward, LEARNED=temperature is not None),
            NO_DIRECTION=NO_DIRECTION,
        )


def forward(
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor | None,
    value: float,
    normalize: bool,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see ``op.py`` for the meaning of every argument."""
    count, dim = tokens.shape
    anchored = anchor is not None
    rows = len(anchor) if anchored else count
    loss, log_z, log_y = (torch.empty(rows, dtype=torch.float32, device=tokens.device) for _ in range(3))
    inverse = torch.empty(count, dtype=torch.float32, device=tokens.device)
    hit = torch.empty(rows if accuracy else 0, dtype=torch.bool, device=tokens.device)
    if rows == 0:
        return loss, log_z, log_y, inverse, hit
    kinds = _kinds(temperature, value, normalize)
    shape = (tokens.device, interpreting(), tokens.dtype, count, rows, dim, anchored)
    plan = plan_for(*shape, "halved")
    if anchored or accuracy or not kinds[0] or not _halves(rows, dim, plan.row_blocks):
        plan = plan_for(*shape, "forward")
    x = _Tokens(plan, tokens, modality, block, anchored, temperature, value, normalize, inverse)
    anchor = anchor if anchored else block
    learned = temperature is not None
    column_sums = plan.row_blocks // 2 if plan.halved else 0
    splits = plan.splits
    z = torch.empty((splits, rows), dtype=torch.float32, device=tokens.device)
    m = z if kinds == (True,) else torch.empty_like(z)
    rival = torch.empty_like(z) if accuracy else z
    columns = z
    if plan.halved:
        columns = torch.zeros((column_sums, rows), dtype=torch.float32, device=tokens.device)
        halved_kernel[plan.row_blocks, splits](
            *(x.high, x.low, x.unit, x.shift, block, x.edges, x.temperature, z, columns, rows, splits, value),
            **plan.constants(False, LEARNED=learned),
        )
        kinds = kinds[1:]
        tiles = plan_for(*shape, "square") if kinds else plan  # whose edges are the same
    else:
        tiles = plan
    for fixed in kinds:
        forward_kernel[plan.row_blocks, splits](
            *(x.high, x.low, x.unit, x.shift, block, ring, modality, x.edges, anchor, x.temperature, m, z, rival),
            *(rows, count, splits, value),
            **tiles.constants(False, FIXED=fixed, NORMALIZE=normalize, ACCURACY=accuracy, LEARNED=learned),
        )
    flags = {"NORMALIZE": normalize, "ANCHORED": anchored, "ACCURACY": accuracy, "LEARNED": learned}
    losses_kernel[plan.row_grid](
        *(x.high, x.low, x.unit, ring, modality, anchor, x.temperature, m, z, columns, rival, loss, log_z, log_y),
        *(hit.view(torch.int8) if accuracy else loss, rows, splits, column_sums, value),
        **plan.constants(True, **flags),
        TIE=TIE,
    )
    return loss, log_z, log_y, inverse, hit


def backward(
    grad: Tensor,
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor | None,
    value: float,
    log_z: Tensor,
    log_y: Tensor,
    inverse: Tensor,
    normalize: bool,
    needs_temperature: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    count, dim = tokens.shape
    anchored = anchor is not None
    rows = len(anchor) if anchored else count
    d_tokens = torch.empty((rows, dim), dtype=tokens.dtype, device=tokens.device)
    of_temperature = tokens if temperature is None else temperature
    if rows == 0:
        return d_tokens, of_temperature.new_zeros(())
    plan = plan_for(tokens.device, interpreting(), tokens.dtype, count, rows, dim, anchored, "backward")
    x = _Tokens(plan, tokens, modality, block, anchored, temperature, value, normalize, inverse, grad, log_z)
    anchor = anchor if anchored else block
    learned = temperature is not None
    scaled = plan.split or tokens.dtype == torch.float16
    largest_grad = torch.linalg.vector_norm(grad, float("inf")) if scaled else x.shift
    largest = x.shift
    if plan.split and not normalize:
        largest = torch.linalg.vector_norm(tokens, dim=1).amax()
    d = torch.empty((plan.splits, rows, plan.stride), dtype=torch.float32, device=tokens.device)
    slopes = slope = x.shift
    if needs_temperature:
        slopes = torch.empty((plan.splits, rows), dtype=torch.float32, device=tokens.device)
        slope = torch.empty(rows, dtype=torch.float32, device=tokens.device)
    for fixed in _kinds(temperature, value, normalize):
        backward_kernel[plan.row_blocks, plan.splits, plan.feature_blocks](
            *(x.high, x.low, x.unit, x.shift, block, x.edges, anchor, x.temperature, largest, largest_grad, x.weight),
            *(x.log_z, d, slopes, rows, count, plan.splits, value),
            **plan.constants(
                False, FIXED=fixed, NORMALIZE=normalize, LEARNED=learned, SCALED=scaled, SLOPE=needs_temperature
            ),
        )
    flags = {"NORMALIZE": normalize, "ANCHORED": anchored, "LEARNED": learned, "SCALED": scaled}
    gradients_kernel[plan.row_grid](
        *(d, slopes, x.high, x.low, x.unit, inverse, ring, modality, block, anchor, x.temperature, largest),
        *(largest_grad, grad, log_z, log_y, d_tokens, slope, rows, plan.splits, value),
        **plan.constants(True, **flags, SLOPE=needs_temperature),
    )
    if not needs_temperature:
        return d_tokens, of_temperature.new_empty(())
    return d_tokens, slope.sum().to(of_temperature)
