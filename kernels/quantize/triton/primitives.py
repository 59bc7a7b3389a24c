"""What the kernels share: division, and rows of a matrix kept whole."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["divided", "finite_rows", "load_rows", "program_rows"]


@triton.jit
def divided(b_x, b_divisor, b_inverse):
    """b_x / b_divisor, rounded as division rounds it, by its inverse."""
    b_near = b_x * b_inverse
    return tl.fma(tl.fma(-b_near, b_divisor, b_x), b_inverse, b_near)


@triton.jit
def program_rows(rows, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """This program's rows and all columns, which rows exist, and which entries do: (ROWS, COLUMNS)."""
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, COLUMNS)
    m_n = o_n < rows
    return o_n, o_d, m_n, m_n[:, None] & (o_d < D)[None, :]


@triton.jit
def load_rows(p_x, o_n, o_d, m, stride):
    """Rows o_n of a matrix with rows `stride` apart, float32 (ROWS, COLUMNS), 0 where masked."""
    return tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m, other=0).to(tl.float32)


@triton.jit
def finite_rows(b_x):
    """Which rows are finite throughout; (ROWS,)."""
    return tl.min((tl.abs(b_x) < float("inf")).to(tl.int32), 1) > 0
