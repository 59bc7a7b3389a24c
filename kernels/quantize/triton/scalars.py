"""Finite scalars: every dimension rounded to its levels, and the gradient that takes rounding as the identity."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import nearest_integer
from .primitives import divided, load_rows

__all__ = ["scalars_backward_kernel", "scalars_kernel"]


@triton.jit
def _squash(b_z, SIGMOID: tl.constexpr):
    """tanh or sigmoid, and its derivative, from one exponential that does not overflow."""
    b_e = tl.exp(tl.abs(b_z) * (-1.0 if SIGMOID else -2.0))
    b_inverse = 1 / (1 + b_e)
    b_positive = b_inverse if SIGMOID else (1 - b_e) * b_inverse
    b_value = tl.where(b_z < 0, 1 - b_positive if SIGMOID else -b_positive, b_positive)
    b_slope = b_e * b_inverse * b_inverse * (1.0 if SIGMOID else 4.0)
    return b_value, b_slope


@triton.jit
def scalars_kernel(
    p_z,  # (N, D)
    p_constant,  # (5, D) float32: shift, half, offset, lowest, unit
    p_place,  # (D,) int64: how many codes a level of the dimension counts for
    p_quantized,  # (N, D)
    p_codes,  # (N,) int64
    rows,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGMOID: tl.constexpr,
    WIDE: tl.constexpr,  # whether codes need 64 bits
):
    """``round(squash(z + shift) half - offset) / unit`` and the code of a row: N D read, N D + N written."""
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, COLUMNS)
    m_d = o_d < D
    m = (o_n < rows)[:, None] & m_d[None, :]
    b_shift = tl.load(p_constant + o_d, mask=m_d, other=0)
    b_half = tl.load(p_constant + D + o_d, mask=m_d, other=0)
    b_offset = tl.load(p_constant + 2 * D + o_d, mask=m_d, other=0)
    b_lowest = tl.load(p_constant + 3 * D + o_d, mask=m_d, other=0).to(tl.int32)
    b_unit = tl.load(p_constant + 4 * D + o_d, mask=m_d, other=1)
    b_place = tl.load(p_place + o_d, mask=m_d, other=0)

    b_z = load_rows(p_z, o_n, o_d, m, D)
    b_value, _ = _squash(b_z + b_shift[None, :], SIGMOID)
    b_level, b_rounded = nearest_integer(b_value * b_half[None, :] - b_offset[None, :])
    m_nan = b_z != b_z
    m_missing = tl.max(m_nan.to(tl.int32), 1) > 0
    b_level = tl.where(m_nan, 0, b_level - b_lowest[None, :])
    if WIDE:
        b_code = tl.sum(b_level.to(tl.int64) * b_place[None, :], 1)
    else:
        b_code = tl.sum(b_level * b_place.to(tl.int32)[None, :], 1).to(tl.int64)
    b_quantized = divided(b_rounded, b_unit[None, :], (1 / b_unit)[None, :])
    b_quantized = tl.where(m_missing[:, None], float("nan"), b_quantized)
    tl.store(p_quantized + o_n[:, None] * D + o_d[None, :], b_quantized.to(p_quantized.dtype.element_ty), mask=m)
    tl.store(p_codes + o_n, tl.where(m_missing, -1, b_code), mask=o_n < rows)


@triton.jit
def scalars_backward_kernel(
    p_grad,  # (N, D)
    p_z,  # (N, D)
    p_constant,  # (5, D) float32, as in scalars_kernel
    p_dz,  # (N, D)
    rows,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    """``grad squash'(z + shift) half / unit``, 0 for rows with a NaN: 2 N D read, N D written."""
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, COLUMNS)
    m_d = o_d < D
    m = (o_n < rows)[:, None] & m_d[None, :]
    b_shift = tl.load(p_constant + o_d, mask=m_d, other=0)
    b_half = tl.load(p_constant + D + o_d, mask=m_d, other=0)
    b_unit = tl.load(p_constant + 4 * D + o_d, mask=m_d, other=1)
    b_z = load_rows(p_z, o_n, o_d, m, D)
    _, b_slope = _squash(b_z + b_shift[None, :], SIGMOID)
    m_missing = tl.max((b_z != b_z).to(tl.int32), 1) > 0
    b_slope = tl.where(m_missing[:, None], 0, b_slope * (b_half / b_unit)[None, :])
    b_grad = load_rows(p_grad, o_n, o_d, m, D)
    b_dz = tl.where(b_slope == 0, 0, b_grad * b_slope)
    tl.store(p_dz + o_n[:, None] * D + o_d[None, :], b_dz.to(p_dz.dtype.element_ty), mask=m)
