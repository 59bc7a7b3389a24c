"""Nearest codes on a GPU: distances and their minimum in one Triton kernel, the N x K scores never in memory.

A program owns ROWS vectors and passes over all codes, CODES at a time, keeping of every vector the best code so far.
With ``eager.prepare`` the nearest code maximises ``(x - centre).c_k + bias_k``: 2 N K D operations and
N D + K D N / ROWS values read.

float32: exact products (``ieee``; tf32 would choose wrong neighbours, and truncates on sm_86). bfloat16 and float16:
products on tensor cores with float32 sums, of operands rounded once to the input's type after centring. That ranking
errs by what the rounding moves, so the best two are kept and compared anew in float32 at the end.

Tiles are a static table for sm_86 and sm_90, compiled ahead of time in the tests. None has been timed on a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .eager import prepare

__all__ = ["TILES", "Tile", "nearest_code", "nearest_kernel"]


@dataclass(frozen=True)
class Tile:
    """Vectors and codes a program multiplies at once, values of both held at once, warps and pipeline stages."""

    rows: int
    codes: int
    values: int
    warps: int
    stages: int


# By architecture and bytes of an element.
TILES = {
    (86, 4): Tile(64, 64, 32, 4, 2),
    (86, 2): Tile(64, 64, 64, 4, 3),
    (90, 4): Tile(64, 64, 32, 4, 3),
    (90, 2): Tile(128, 64, 64, 8, 3),
}
_INTERPRETED = Tile(16, 16, 16, 1, 1)


@triton.jit
def _better(b_score, b_code, b_other, b_other_code):
    """Which of two candidates for each vector is first: the greater score, the lower code on ties."""
    return (b_score > b_other) | ((b_score == b_other) & (b_code < b_other_code))


@triton.jit
def _exact_score(
    p_x, p_centre, p_exact, p_bias, o_n, m_n, b_code, stride,
    D: tl.constexpr, ROWS: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """``(x - centre).c + bias`` in float32 for one code a vector; (ROWS,)."""
    b_sum = tl.zeros([ROWS], tl.float32)
    for start in range(0, D, VALUES):
        o_d = start + tl.arange(0, VALUES)
        m_d = o_d < D
        m = m_n[:, None] & m_d[None, :]
        b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m, other=0).to(tl.float32)
        b_x -= tl.load(p_centre + o_d, mask=m_d, other=0)[None, :]
        b_c = tl.load(p_exact + b_code[:, None].to(tl.int64) * D + o_d[None, :], mask=m, other=0)
        b_sum += tl.sum(b_x * b_c, 1)
    return b_sum + tl.load(p_bias + b_code)


@triton.jit
def nearest_kernel(
    p_x,  # (N, D), rows `stride` apart
    p_centre,  # (D,) float32
    p_codes,  # (K, D) in the type that is multiplied
    p_exact,  # (K, D) float32
    p_bias,  # (K,) float32
    p_nearest,  # (N,) int64
    rows,
    size,
    stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    VALUES: tl.constexpr,
    RESCORE: tl.constexpr,
):
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_n = o_n < rows
    b_best = tl.full([ROWS], float("-inf"), tl.float32)
    b_code = tl.zeros([ROWS], tl.int32)
    b_second = tl.full([ROWS], float("-inf"), tl.float32)
    b_second_code = tl.zeros([ROWS], tl.int32)
    b_nan = tl.zeros([ROWS], tl.int32)
    b_infinite = tl.zeros([ROWS], tl.int32)

    for first in range(0, size, CODES):
        o_k = first + tl.arange(0, CODES)
        m_k = o_k < size
        b_bias = tl.load(p_bias + o_k, mask=m_k, other=float("-inf"))
        b_score = tl.zeros([ROWS, CODES], tl.float32)
        for start in range(0, D, VALUES):
            o_d = start + tl.arange(0, VALUES)
            m_d = o_d < D
            m_x = m_n[:, None] & m_d[None, :]
            b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m_x, other=0).to(tl.float32)
            if first == 0:
                b_nan |= tl.max((b_x != b_x).to(tl.int32), 1)
                b_infinite |= tl.max((tl.abs(b_x) == float("inf")).to(tl.int32), 1)
            b_x = tl.where(tl.abs(b_x) < float("inf"), b_x, 0)  # decided at the end, not by the maximum
            b_x -= tl.load(p_centre + o_d, mask=m_d, other=0)[None, :]
            b_c = tl.load(
                p_codes + o_k[None, :].to(tl.int64) * D + o_d[:, None], mask=m_d[:, None] & m_k[None, :], other=0
            )
            b_score = tl.dot(b_x.to(p_codes.dtype.element_ty), b_c, b_score, input_precision="ieee")
        b_score += b_bias[None, :]

        b_top, b_at = tl.max(b_score, 1, return_indices=True, return_indices_tie_break_left=True)
        b_wins = b_top > b_best  # strictly: of equals the lower code stays
        if RESCORE:
            b_rest = tl.where(tl.arange(0, CODES)[None, :] == b_at[:, None], float("-inf"), b_score)
            b_next, b_next_at = tl.max(b_rest, 1, return_indices=True, return_indices_tie_break_left=True)
            # The new second best is the old best or the block's second, or else the block's best or the old second.
            b_low = tl.where(b_wins, b_best, b_top)
            b_low_code = tl.where(b_wins, b_code, first + b_at)
            b_held = tl.where(b_wins, b_next, b_second)
            b_held_code = tl.where(b_wins, first + b_next_at, b_second_code)
            b_lower = _better(b_low, b_low_code, b_held, b_held_code)
            b_second = tl.where(b_lower, b_low, b_held)
            b_second_code = tl.where(b_lower, b_low_code, b_held_code)
        b_best = tl.where(b_wins, b_top, b_best)
        b_code = tl.where(b_wins, first + b_at, b_code)

    if RESCORE:
        b_one = _exact_score(p_x, p_centre, p_exact, p_bias, o_n, m_n, b_code, stride, D, ROWS, VALUES)
        b_two = _exact_score(p_x, p_centre, p_exact, p_bias, o_n, m_n, b_second_code, stride, D, ROWS, VALUES)
        b_two = tl.where(b_second > float("-inf"), b_two, float("-inf"))  # one code alone has no second
        b_code = tl.where(_better(b_one, b_code, b_two, b_second_code), b_code, b_second_code)

    # Infinitely far from all codes is a tie; not a number is missing.
    b_code = tl.where(b_infinite > 0, 0, b_code)
    b_code = tl.where(b_nan > 0, -1, b_code)
    tl.store(p_nearest + o_n, b_code.to(tl.int64), mask=m_n)


def choose_tile(x: Tensor) -> Tile:
    """The tile for the device of x and its element size."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return _INTERPRETED
    major, _ = torch.cuda.get_device_capability(x.device)
    return TILES[90 if major >= 9 else 86, x.element_size()]


def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    rows, dim = x.shape
    nearest = torch.empty(rows, dtype=torch.int64, device=x.device)
    if rows == 0:
        return nearest
    if x.stride(1) != 1:
        x = x.contiguous()
    centre, exact, bias = prepare(codebook.float(), metric)
    tile = choose_tile(x)
    nearest_kernel[(triton.cdiv(rows, tile.rows),)](
        x, centre, exact.to(x.dtype), exact, bias, nearest, rows, codebook.shape[0], x.stride(0),
        D=dim, ROWS=tile.rows, CODES=tile.codes, VALUES=tile.values, RESCORE=x.element_size() == 2,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return nearest
