"""How many vectors each code was given, and their sum, in the same bits every time.

Sums are added as 64-bit fixed-point numbers, a fraction of the power of two above the largest value: additions of
integers come to the same total in any order, so atomic ones are deterministic, and nothing has to be sorted. With 46
fraction bits a term is off by less than float32 rounds it against the largest.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import power_of_two
from .primitives import finite_rows, load_rows, program_rows

__all__ = ["add_kernel", "finish_kernel", "mark_kernel"]

_PIECE = tl.constexpr(24)  # bits of a term that are converted at once: float32 holds them exactly


@triton.jit
def mark_kernel(
    p_x,  # (N, D), rows `stride` apart
    p_codes,  # (N,) int64
    p_used,  # (N,) int32: the code, -1 for rows that do not count
    p_counts,  # (K,) int64, zeros
    p_largest,  # (1,) int32, zero: bits of a float, ordered like the floats where not negative
    rows,
    size,
    stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Which rows count, how many each code has, and the largest value: N D values and N codes read."""
    o_n, o_d, m_n, m = program_rows(rows, D, ROWS, COLUMNS)
    b_x = load_rows(p_x, o_n, o_d, m, stride)
    b_code = tl.load(p_codes + o_n, mask=m_n, other=-1)
    m_used = finite_rows(b_x) & (b_code >= 0) & (b_code < size)
    tl.store(p_used + o_n, tl.where(m_used, b_code, -1).to(tl.int32), mask=m_n)
    tl.atomic_add(p_counts + b_code, tl.full([ROWS], 1, tl.int64), mask=m_used, sem="relaxed")
    largest = tl.max(tl.max(tl.where(m_used[:, None], tl.abs(b_x), 0), 1), 0)
    tl.atomic_max(p_largest, largest.to(tl.int32, bitcast=True), sem="relaxed")


@triton.jit
def _unit(p_largest):
    """The power of two that brings values below 2^24, and its inverse."""
    return power_of_two(tl.load(p_largest).to(tl.float32, bitcast=True), _PIECE)


@triton.jit
def add_kernel(
    p_x,  # (N, D), rows `stride` apart
    p_used,  # (N,) int32
    p_largest,  # (1,) int32
    p_sums,  # (K, D) int64, zeros
    rows,
    stride,
    shift,  # fraction bits beyond those 24
    fraction,  # 2^shift, float
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Adds every row to the sum of its code: N D values read and N D atomic additions of integers."""
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, COLUMNS)
    b_code = tl.load(p_used + o_n, mask=o_n < rows, other=-1)
    m = (b_code >= 0)[:, None] & (o_d < D)[None, :]
    scale, _ = _unit(p_largest)
    b_x = load_rows(p_x, o_n, o_d, m, stride) * scale
    # In two 32-bit conversions; one of 64 bits takes eight times as long.
    b_whole = b_x.to(tl.int32)
    b_rest = ((b_x - b_whole.to(tl.float32)) * fraction).to(tl.int32)
    b_term = (b_whole.to(tl.int64) << shift) + b_rest
    tl.atomic_add(p_sums + b_code[:, None].to(tl.int64) * D + o_d[None, :], b_term, mask=m, sem="relaxed")


@triton.jit
def finish_kernel(
    p_fixed_counts,  # (K,) int64
    p_fixed_sums,  # (K D,) int64
    p_largest,  # (1,) int32
    p_counts,  # (K,) float32
    p_sums,  # (K D,) float32
    size,
    values,  # K D
    fraction,
    BLOCK: tl.constexpr,
):
    """Fixed point to float32: K D read and written."""
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    _, inverse = _unit(p_largest)
    b_sum = tl.load(p_fixed_sums + o, mask=o < values, other=0).to(tl.float64)
    b_sum = b_sum / fraction * inverse.to(tl.float64)
    tl.store(p_sums + o, b_sum.to(tl.float32), mask=o < values)
    b_count = tl.load(p_fixed_counts + o, mask=o < size, other=0)
    tl.store(p_counts + o, b_count.to(tl.float32), mask=o < size)
