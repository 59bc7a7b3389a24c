"""Vectors replaced by their codes, with the commitment loss, and what the encoder receives of the gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import finite_rows, load_rows, program_rows

__all__ = ["commitment_kernel", "rows_backward_kernel", "rows_kernel"]


@triton.jit
def rows_kernel(
    p_x,  # (N, D), rows `stride` apart
    p_codebook,  # (K, D), codes `code_stride` apart
    p_codes,  # (N,) int64
    p_quantized,  # (N, D)
    p_parts,  # (2, programs) float32: a program's sum of squares, and how many of its rows are finite
    rows,
    stride,
    code_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``codebook[codes]``, NaN for -1, and ``|x - quantized|^2`` of finite rows: 2 N D + N read, N D written."""
    o_n, o_d, m_n, m = program_rows(rows, D, ROWS, COLUMNS)
    b_code = tl.load(p_codes + o_n, mask=m_n, other=-1)
    b_x = load_rows(p_x, o_n, o_d, m, stride)
    b_c = tl.load(p_codebook + tl.maximum(b_code, 0)[:, None] * code_stride + o_d[None, :], mask=m, other=0)
    b_q = b_c.to(tl.float32).to(p_quantized.dtype.element_ty)
    m_finite = m_n & finite_rows(b_x) & (b_code >= 0)
    b_error = tl.where(m_finite[:, None], b_x - b_q.to(tl.float32), 0)
    b_q = tl.where((b_code < 0)[:, None], float("nan"), b_q.to(tl.float32)).to(p_quantized.dtype.element_ty)
    tl.store(p_quantized + o_n[:, None] * D + o_d[None, :], b_q, mask=m)
    tl.store(p_parts + tl.program_id(0), tl.sum(tl.sum(b_error * b_error, 1), 0))
    tl.store(p_parts + tl.num_programs(0) + tl.program_id(0), tl.sum(m_finite.to(tl.float32), 0))


@triton.jit
def commitment_kernel(
    p_parts,  # (2, programs) float32
    p_commitment,  # () float32
    p_finite,  # () int64
    programs,
    dim,
    BLOCK: tl.constexpr,
):
    """The mean square over finite rows and D, and their number; 0 without rows, NaN without finite ones. One program.

    Two numbers read for every program of ``rows_kernel``, in a fixed order.
    """
    b_square = tl.zeros([BLOCK], tl.float64)
    b_finite = tl.zeros([BLOCK], tl.int64)
    for start in range(0, programs, BLOCK):
        o = start + tl.arange(0, BLOCK)
        b_square += tl.load(p_parts + o, mask=o < programs, other=0).to(tl.float64)
        b_finite += tl.load(p_parts + programs + o, mask=o < programs, other=0).to(tl.int64)
    finite = tl.sum(b_finite, 0)
    values = tl.maximum(finite * dim, 1).to(tl.float64)
    none = (programs > 0) & (finite == 0)  # of some rows; a mean of nothing
    tl.store(p_commitment, tl.where(none, float("nan"), (tl.sum(b_square, 0) / values).to(tl.float32)))
    tl.store(p_finite, finite)


@triton.jit
def _unit(b_x, b_length):
    """Rows over their lengths; zero rows stay."""
    return b_x / tl.where(b_length > 0, b_length, 1)[:, None]


@triton.jit
def rows_backward_kernel(
    p_grad,  # (N, D), rows `grad_stride` apart
    p_grad_commitment,  # ()
    p_x,  # (N, D), rows `stride` apart
    p_quantized,  # (N, D)
    p_finite,  # () int64
    p_dx,  # (N, D)
    rows,
    grad_stride,
    stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROTATION: tl.constexpr,
):
    """``g + 2 grad_commitment (x - q) / (finite D)``, 0 for rows that are not finite: 3 N D read, N D written.

    g is the gradient as it came, or, for ROTATION, the transpose of the map that turns and scales x to q: with
    ``e = x/|x|, u = q/|q|, w = (e + u)/|e + u|`` it is ``|q|/|x| (g - 2 w (w.g) + 2 e (u.g))``.
    """
    o_n, o_d, _, m = program_rows(rows, D, ROWS, COLUMNS)
    b_x = load_rows(p_x, o_n, o_d, m, stride)
    m_finite = finite_rows(b_x)[:, None]
    b_x = tl.where(m_finite, b_x, 0)
    b_q = tl.where(m_finite, load_rows(p_quantized, o_n, o_d, m, D), 0)
    b_g = tl.where(m_finite, load_rows(p_grad, o_n, o_d, m, grad_stride), 0)
    values = tl.maximum(tl.load(p_finite) * D, 1).to(tl.float32)
    pull = 2 * tl.load(p_grad_commitment).to(tl.float32) / values
    b_dx = b_g
    if ROTATION:
        b_length = tl.sqrt(tl.sum(b_x * b_x, 1))
        b_code_length = tl.sqrt(tl.sum(b_q * b_q, 1))
        b_e = _unit(b_x, b_length)
        b_u = _unit(b_q, b_code_length)
        b_w = b_e + b_u
        b_w = _unit(b_w, tl.sqrt(tl.sum(b_w * b_w, 1)))
        b_along_w = tl.sum(b_w * b_g, 1)[:, None]
        b_along_u = tl.sum(b_u * b_g, 1)[:, None]
        b_scale = (b_code_length / tl.where(b_length > 0, b_length, 1))[:, None]
        b_turned = b_scale * (b_g - 2 * b_w * b_along_w + 2 * b_e * b_along_u)
        b_dx = tl.where((b_length > 0)[:, None], b_turned, b_g)
    b_dx = tl.where(m_finite, b_dx + pull * (b_x - b_q), 0)
    tl.store(p_dx + o_n[:, None] * D + o_d[None, :], b_dx.to(p_dx.dtype.element_ty), mask=m)
