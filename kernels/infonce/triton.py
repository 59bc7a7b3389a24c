"""Patch InfoNCE on the GPU: every program owns a block of rows; no atomics, the same bits every run.

    forward   Z_i = sum_j e^(s_ij - c)                                            2 N^2 D operations, or N^2 D
    backward  W_ij = e^(s_ij - c) (w_i/Z_i + w_j/Z_j),  dL/df_i = sum_j W_ij f_j  4 N^2 D operations

Positives are M - 1 tokens a row: their terms are set right row by row, outside the tiles. Excluded blocks are
contiguous, so only tiles at their edges compare labels and tiles inside them are skipped; unobserved tokens and
padding vanish through a column's shift of -inf, which costs nothing. Column splits fill the chip where there are
fewer row blocks than multiprocessors; their partial sums are added in a fixed order.

S is symmetric. In the forward pass a tile can serve its rows and its columns for a partial sum a column, and half
of the tiles do (``_Operands.halved`` says when). In the backward pass it would cost a partial gradient a column,
D numbers instead of one, whose traffic takes several times as long as the products that it saves.

Not timed on a GPU yet: tiles are chosen by what the compiler says of shared memory and registers.

float32 tokens are split into two bfloat16 parts, x = high + low, and multiplied as high high + high low + low high,
which keeps 16 bits of each factor (tf32, truncated by Triton on sm_86, keeps 10).
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from .reference import NO_DIRECTION, TIE
from .triton_half import half_forward_kernel
from .triton_rows import directions_kernel, row_gradients_kernel, row_losses_kernel
from .triton_tiles import backward_kernel, forward_kernel

SAFE_SCALE = 32.0  # up to this 1 / temperature, e^(s - scale) of cosines is at least e^-64: one shift for all rows
_LOG2_E = 1.4426950408889634
_UNIT = 4096.0  # largest row weight in backward, whatever the reduction: float16 would lose weights of 1 / N
_MOST_SPLITS = 8
# Products of tokens by features from which half of the tiles save more than their two additional launches cost,
# taken as 10 microseconds: 1.5e9 at the bfloat16 rate of an RTX A6000.
_HALVED_FROM = 1_500_000_000


@dataclass(frozen=True)
class Tile:
    """Rows, columns, warps and pipeline stages of one program."""

    rows: int
    columns: int
    warps: int
    stages: int


# For up to 256 features, by architecture, dtype of the tokens ("half": 16 bits, "split": float32) and pass. A
# multiprocessor of sm_86 gives a program 101,376 bytes of shared memory.
TILES = {
    (86, "half", "forward"): Tile(64, 64, 4, 2),
    (86, "half", "backward"): Tile(64, 64, 8, 2),
    (86, "split", "forward"): Tile(32, 32, 4, 2),
    (86, "split", "backward"): Tile(32, 32, 8, 2),
    (90, "half", "forward"): Tile(128, 128, 8, 2),
    (90, "half", "backward"): Tile(128, 64, 8, 2),
    (90, "split", "forward"): Tile(128, 64, 8, 1),
    (90, "split", "backward"): Tile(64, 32, 4, 2),
}
_INTERPRETED = Tile(32, 32, 4, 1)
ROW_ELEMENTS = 4096  # entries of the tile of the kernels that go row by row


def forward(
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor,
    normalize: bool,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see ``op.py`` for the meaning of every argument."""
    x = _Operands(tokens, modality, block, anchor, temperature, normalize, "forward")
    loss, log_z, log_y = (x.floats(x.rows) for _ in range(3))
    hit = torch.empty(x.rows if accuracy else 0, dtype=torch.bool, device=tokens.device)
    if x.rows == 0:
        return loss, log_z, log_y, x.inverse, hit
    halved = x.halved and not accuracy
    splits = x.splits(x.row_blocks // 2 + 1 if halved else x.padded // x.tile.columns)
    m, z = (x.floats(splits + halved, x.rows) for _ in range(2))
    rival = x.floats(splits, x.rows) if accuracy else z
    if halved:
        columns = torch.zeros(x.row_blocks // 2, x.rows, dtype=torch.float32, device=tokens.device)
        half_forward_kernel[x.row_blocks, splits](
            *(x.high, x.low, x.shift, x.scale, x.block, x.edges, z, columns, x.rows, splits), **x.tile_constants
        )
        torch.sum(columns, 0, out=z[splits])
        m[splits] = float("-inf")
    x.tiles(
        forward_kernel,
        x.kinds[1:] if halved else x.kinds,
        (ring, modality, x.edges, x.anchor, m, z, rival),
        (x.row_blocks, splits),
        splits,
        ACCURACY=accuracy,
    )
    splits = len(z)
    row_losses_kernel[x.row_grid](
        *(x.high, x.low, x.scale, ring, modality, x.anchor, m, z, rival, loss, log_z, log_y),
        *(hit.view(torch.int8) if accuracy else loss, x.rows, splits),
        **x.row_constants,
        ACCURACY=accuracy,
        TIE=TIE,
    )
    return loss, log_z, log_y, x.inverse, hit


def backward(
    grad: Tensor,
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor,
    log_z: Tensor,
    log_y: Tensor,
    inverse: Tensor,
    normalize: bool,
    needs_temperature: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    x = _Operands(tokens, modality, block, anchor, temperature, normalize, "backward")
    d_tokens, slope = tokens.new_empty(x.rows, tokens.shape[1]), x.floats(x.rows)
    if x.rows == 0:
        return d_tokens, torch.zeros_like(temperature)
    splits = x.splits(x.padded // x.tile.columns)
    unit = grad.abs().amax().clamp(min=1e-30).reshape(1) / _UNIT
    weight = x.pad(torch.where(x.scale[1] > 0, (x.scale[0] - log_z).exp(), 1.0) * (grad / unit))
    log2_z, log2_y = x.pad(log_z * _LOG2_E), x.pad(log_y * _LOG2_E)
    d = x.floats(splits, x.rows, x.padded_dim)
    blocks_of_features = x.padded_dim // x.block_dim
    x.tiles(
        backward_kernel,
        x.kinds,
        (x.edges, x.anchor, weight, log2_z, d),
        (x.row_blocks, splits, blocks_of_features),
        splits,
    )
    row_gradients_kernel[x.row_grid](
        *(d, x.high, x.low, x.scale, unit, x.inverse, ring, modality, block, x.anchor, weight, grad),
        *(log2_z, log2_y, d_tokens, slope, x.rows, splits),
        **x.row_constants,
        D=tokens.shape[1],
        NORMALIZE=normalize,
    )
    if not needs_temperature:
        return d_tokens, torch.zeros_like(temperature)
    return d_tokens, (-0.5 * x.scale[0] * slope.sum()).to(temperature)


class _Operands:
    """The tokens as the kernels want them, and the launch parameters of one pass."""

    def __init__(
        self,
        tokens: Tensor,
        modality: Tensor,
        block: Tensor,
        anchor: Tensor | None,
        temperature: Tensor,
        normalize: bool,
        name: str,
    ) -> None:
        self.device = tokens.device
        self.tokens, dim = tokens.shape
        self.rows = self.tokens if anchor is None else len(anchor)
        self.anchored, self.anchor = anchor is not None, block if anchor is None else anchor
        self.padded_dim = max(16, triton.next_power_of_2(dim))
        self.block_dim = min(self.padded_dim, 256)
        self.split = tokens.dtype == torch.float32 and not _interpreting()
        self.tile = choose_tile(self.device, "split" if self.split else "half", name)
        self.row_blocks = triton.cdiv(self.rows, self.tile.rows)
        self.padded = triton.cdiv(self.tokens, 128) * 128
        self.block = block
        self.edges = block if self.anchored else self._edges()
        self._set_scale(temperature, normalize)
        self.inverse, self.shift = self.floats(self.tokens), self.floats(self.padded)

        high = torch.bfloat16 if self.split else tokens.dtype
        self.high = torch.empty(self.padded, self.padded_dim, dtype=high, device=self.device)
        self.low = torch.empty_like(self.high) if self.split else self.high
        self.tile_constants = {
            **{"ROWS": self.tile.rows, "PADDED_D": self.padded_dim, "BLOCK_D": self.block_dim, "SPLIT": self.split},
            **{"num_warps": self.tile.warps, "num_stages": self.tile.stages},
        }
        row_tile = max(1, min(64, ROW_ELEMENTS // self.padded_dim))
        self.row_grid = (triton.cdiv(self.rows, row_tile),)
        self.row_constants = {
            "PADDED_D": self.padded_dim,
            "ROWS": row_tile,
            "SPLIT": self.split,
            "ANCHORED": self.anchored,
        }
        if self.tokens:
            directions_kernel[(triton.cdiv(self.padded, row_tile),)](
                *(tokens, modality, self.scale, self.high, self.low, self.inverse, self.shift),
                *(self.tokens, self.padded),
                D=dim,
                PADDED_D=self.padded_dim,
                ROWS=row_tile,
                NORMALIZE=normalize,
                SPLIT=self.split,
                NO_DIRECTION=NO_DIRECTION,
            )

    def _set_scale(self, temperature: Tensor, normalize: bool) -> None:
        """(scale, one shift?) on the device; and which kinds of kernel to launch: both where the host knows not."""
        if temperature.device.type == "cpu":
            scale = 1 / temperature.item()
            fixed = normalize and scale <= SAFE_SCALE
            self.scale = self.floats(2).fill_(scale)
            self.scale[1].fill_(fixed)
            self.kinds = (fixed,)
        else:
            scale = 1 / temperature.float()
            self.scale = torch.stack([scale, ((scale <= SAFE_SCALE) & normalize).float()])
            self.kinds = (True, False) if normalize else (False,)

    def _edges(self) -> Tensor:
        """Columns that tiles of rows exclude, (row blocks, 4) int32; see ``_plan``."""
        first = self.block[:: self.tile.rows].contiguous()
        last = torch.cat([self.block[self.tile.rows - 1 :: self.tile.rows], self.block[-1:]])[: len(first)]
        low = torch.searchsorted(self.block, first, out_int32=True)
        high = torch.searchsorted(self.block, last, out_int32=True, right=True)
        return torch.stack([low, high, torch.where(first == last, low, high), high], 1)

    @property
    def halved(self) -> bool:
        """Whether half of the tiles are to serve rows and columns, where positives need not be told from rivals.

        The partial sums of columns are no larger than N x D, as are those of the backward pass.
        """
        return (
            not self.anchored
            and self.kinds[0]
            and self.tile.rows == self.tile.columns
            and self.row_blocks <= 2 * self.padded_dim
            and self.tokens**2 * self.padded_dim >= _HALVED_FROM
        )

    def floats(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def pad(self, x: Tensor) -> Tensor:
        """(N,) with zeros behind, (N + padding,)."""
        return torch.nn.functional.pad(x, (0, self.padded - self.tokens))

    def splits(self, most: int) -> int:
        """Column splits that leave few multiprocessors idle in the last wave."""
        slots = _multiprocessors(self.device)
        choices = range(1, min(_MOST_SPLITS, max(most, 1)) + 1)
        busy = {s: self.row_blocks * s / (slots * triton.cdiv(self.row_blocks * s, slots)) for s in choices}
        return next(s for s in choices if busy[s] >= 0.95 * max(busy.values()))

    def tiles(
        self,
        kernel: triton.JITFunction,
        kinds: tuple[bool, ...],
        others: tuple,
        grid: tuple[int, ...],
        splits: int,
        **flags: bool,
    ) -> None:
        for fixed in kinds:
            kernel[grid](
                *(self.high, self.low, self.shift, self.scale, self.block, *others),
                *(self.rows, self.tokens, splits),
                COLUMNS=self.tile.columns,
                FIXED=fixed,
                ANCHORED=self.anchored,
                **self.tile_constants,
                **flags,
            )


def choose_tile(device: torch.device, kind: str, name: str) -> Tile:
    """The tile of a pass, by how much shared memory the device gives one program."""
    if _interpreting():
        return _INTERPRETED
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return TILES[90 if shared > 200_000 else 86, kind, name]


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return 4 if _interpreting() else torch.cuda.get_device_properties(device).multi_processor_count


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
