"""What the kernels share: rounding, and rows of a matrix kept whole."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["divided", "finite_rows", "load_rows", "nearest_integer"]


@triton.jit
def nearest_integer(b_x):
    """b_x, up to 2^22, rounded to the nearest integer, ties to even: int32, and float32."""
    b_whole = b_x + 12582912.0  # 1.5 2^23: beside it float32 has no fraction, and the integer is in its last bits
    return b_whole.to(tl.int32, bitcast=True) - 0x4B400000, b_whole - 12582912.0


@triton.jit
def divided(b_x, b_divisor, b_inverse):
    """b_x / b_divisor, rounded as division rounds it, by its inverse."""
    b_near = b_x * b_inverse
    return tl.fma(tl.fma(-b_near, b_divisor, b_x), b_inverse, b_near)


@triton.jit
def load_rows(p_x, o_n, o_d, m, stride):
    """Rows o_n of a matrix with rows `stride` apart, float32 (ROWS, COLUMNS), 0 where masked."""
    return tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m, other=0).to(tl.float32)


@triton.jit
def finite_rows(b_x):
    """Which rows are finite throughout; (ROWS,)."""
    return tl.min((tl.abs(b_x) < float("inf")).to(tl.int32), 1) > 0
