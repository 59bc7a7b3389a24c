"""Nearest codes: the search, in one kernel, in a codebook that codebook.py has made ready.

The nearest code of x maximises ``(x - centre).c_k + bias_k`` (``eager.prepare``). Both factors are split into two
float16, scaled by powers of two (``_triton.language.split``), a vector by its own, the codes by one. Products are
three on tensor cores, of 22 bits together, with float32 sums, for float32, bfloat16 and float16 alike: what float32
tells apart is told apart whatever the input's type.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import power_of_two, product, split
from .codebook import EXPONENT

__all__ = ["nearest_kernel"]


@triton.jit
def _vectors(p_x, p_centre, o_n, m_n, o_d, stride, D: tl.constexpr, COSINE: tl.constexpr):
    """``x - centre`` in float32, 0 behind N and D, and x itself; (ROWS, DEPTH)."""
    m_d = o_d < D
    m = m_n[:, None] & m_d[None, :]
    b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m, other=0).to(tl.float32)
    if COSINE:
        return b_x, b_x
    b_centre = tl.load(p_centre + o_d, mask=m_d, other=0)
    return tl.where(m, b_x - b_centre[None, :], 0), b_x


@triton.jit
def _scale(b_largest, least):
    """The power of two that brings vectors with largest values b_largest below 2^15, as if none were under least.

    One that is infinitely far from all codes gets any.
    """
    b_finite = tl.where(b_largest < float("inf"), tl.maximum(b_largest, least), 0)
    b_scale, _ = power_of_two(b_finite, EXPONENT)
    return b_scale


@triton.jit
def _margin(b_top, b_ratio, longest, D: tl.constexpr, COSINE: tl.constexpr):
    """How far the scores of two codes that may be nearest can be apart by error alone; (ROWS,).

    Products of 22 bits of each factor leave out low times low and are cut off, not rounded, after every 8: an error
    relative to |x||c|. A code that is no farther from x than the best is no longer than |x| + |x - c|, so outliers
    in the codebook count only in what their common scale costs. Lengths are of scaled codes; b_ratio is how much more
    vectors are scaled than codes.
    """
    ERROR: tl.constexpr = 2.0**-21 + D * 2.0**-27
    LENGTH: tl.constexpr = 2.0**15 * D**0.5  # no scaled vector is longer
    b_longest = tl.zeros_like(b_top) + longest
    b_margin = b_longest * (LENGTH * 2.0**-38)
    if not COSINE:
        b_inverse = 1 / b_ratio
        b_x = LENGTH * b_inverse
        b_away = tl.sqrt(tl.maximum(b_x * b_x - 2 * b_top * b_inverse, 0))
        b_longest = tl.minimum(b_longest, 1.001 * (b_x + b_away))
        b_margin += ERROR * b_longest * b_longest * b_ratio
    return b_margin + ERROR * LENGTH * b_longest


@triton.jit
def _exact_score(
    p_x, p_exact, o_n, m_n, b_code, b_scale, dim, stride, exact_stride, ROWS: tl.constexpr, COSINE: tl.constexpr
):  # fmt: skip
    """``-|x - c|^2``, scaled, or ``x.c`` for COSINE, in float32 for one code a vector; (ROWS,)."""
    DEPTH: tl.constexpr = 16  # few values at once: this is rare, and must not cost the search registers
    b_sum = tl.zeros([ROWS], tl.float32)
    for start in range(0, dim, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m = m_n[:, None] & (o_d < dim)[None, :]
        b_x = tl.load(p_x + o_n[:, None] * stride + o_d[None, :], mask=m, other=0).to(tl.float32)
        b_c = tl.load(p_exact + b_code[:, None].to(tl.int64) * exact_stride + o_d[None, :], mask=m, other=0)
        b_c = b_c.to(tl.float32)
        if COSINE:
            b_sum += tl.sum(b_x * b_c, 1)
        else:
            b_away = (b_x - b_c) * b_scale[:, None]
            b_sum -= tl.sum(b_away * b_away, 1)
    return b_sum


@triton.jit
def nearest_kernel(
    p_x,  # (N, D), rows `stride` apart
    p_high,  # all of these from split_kernel
    p_low,
    p_bias,
    p_centre,
    p_norm,  # (1 + parts,)
    p_exact,  # (K, D): the codebook, or centred unit codes for COSINE; codes `exact_stride` apart
    p_nearest,  # (N,) int64
    rows,
    size,
    parts,
    dim,  # D, not unrolled
    stride,
    exact_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    CODES: tl.constexpr,
    DEPTH: tl.constexpr,
    COSINE: tl.constexpr,
):
    """``argmax_k (x - centre).c_k + bias_k``: N K D products three times, N D + K D N / ROWS values read, N written.

    A program owns ROWS vectors and passes over all codes, CODES at a time. What it keeps of them is kept apart for
    every column of a block, without a reduction: the best score and the block it was in. Where the best two come closer
    than the products can be wrong, which is rare, they are compared anew by their distances in float32. Vectors of up
    to DEPTH values are split once and stay; longer ones in every block.
    """
    PADDED: tl.constexpr = (D + DEPTH - 1) // DEPTH * DEPTH
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_n = o_n < rows
    b_longest = tl.zeros([256], tl.float32)
    for first in range(0, parts, 256):
        o_part = first + tl.arange(0, 256)
        b_longest = tl.maximum(b_longest, tl.load(p_norm + 1 + o_part, mask=o_part < parts, other=0))
    longest = tl.max(b_longest, 0)
    unit = tl.load(p_norm)
    # A vector much shorter than the codes is scaled as if it were not, so that biases stay finite beside products.
    least = 0.0 if COSINE else longest / unit * 2.0**-24

    b_nan = tl.zeros([ROWS], tl.int32)
    b_largest = tl.zeros([ROWS], tl.float32)
    if PADDED == DEPTH:
        b_x, b_given = _vectors(p_x, p_centre, o_n, m_n, tl.arange(0, DEPTH), stride, D, COSINE)
        b_nan = tl.max((b_given != b_given).to(tl.int32), 1)
        b_largest = tl.max(tl.abs(b_x), 1)
        b_scale = _scale(b_largest, least)
        b_high, b_low = split(b_x * b_scale[:, None])
    else:
        for start in range(0, PADDED, DEPTH):
            b_x, b_given = _vectors(p_x, p_centre, o_n, m_n, start + tl.arange(0, DEPTH), stride, D, COSINE)
            b_nan |= tl.max((b_given != b_given).to(tl.int32), 1)
            b_largest = tl.maximum(b_largest, tl.max(tl.abs(b_x), 1))
        b_scale = _scale(b_largest, least)
    # Of biases; also says which vectors are missing, and which are infinitely far from all codes: those tie.
    b_ratio = tl.zeros_like(b_scale) + 1 if COSINE else b_scale / unit
    b_ratio = tl.where(b_largest < float("inf"), b_ratio, -1)
    b_ratio = tl.where(b_nan > 0, float("nan"), b_ratio)
    b_ratio = tl.where(unit == unit, b_ratio, float("nan"))  # it is not where the codebook is not finite

    b_best = tl.full([ROWS, CODES], float("-inf"), tl.float32)
    b_block = tl.zeros([ROWS, CODES], tl.int32)
    o_column = tl.arange(0, CODES)
    for first in range(0, size, CODES):
        o_k = first + o_column
        b_dot = tl.zeros([ROWS, CODES], tl.float32)
        if PADDED == DEPTH:
            o_c = o_k[None, :] * PADDED + tl.arange(0, DEPTH)[:, None]
            b_dot = product(b_high, b_low, tl.load(p_high + o_c), tl.load(p_low + o_c), b_dot, True)
        else:
            for start in range(0, PADDED, DEPTH):
                o_d = start + tl.arange(0, DEPTH)
                b_x, _ = _vectors(p_x, p_centre, o_n, m_n, o_d, stride, D, COSINE)
                b_first, b_second = split(b_x * b_scale[:, None])
                o_c = o_k[None, :] * PADDED + o_d[:, None]
                b_dot = product(b_first, b_second, tl.load(p_high + o_c), tl.load(p_low + o_c), b_dot, True)
        b_score = tl.load(p_bias + o_k)[None, :] * b_ratio[:, None] + b_dot
        b_block = tl.where(b_score > b_best, first, b_block)  # strictly: of equals the lower code stays
        b_best = tl.maximum(b_best, b_score)

    b_at = b_block + o_column[None, :]
    b_top = tl.max(b_best, 1)
    b_code = tl.min(tl.where(b_best == b_top[:, None], b_at, size - 1), 1)
    b_best = tl.where(b_at == b_code[:, None], float("-inf"), b_best)
    b_next = tl.max(b_best, 1)
    b_second = tl.min(tl.where(b_best == b_next[:, None], b_at, size - 1), 1)
    m_close = m_n & (b_next >= b_top - _margin(b_top, b_ratio, longest, D, COSINE))
    if tl.max(m_close.to(tl.int32), 0) > 0:
        b_least = tl.minimum(b_ratio, 1) * unit  # the lesser scale, in which neither x nor c overflows
        b_one = _exact_score(p_x, p_exact, o_n, m_n, b_code, b_least, dim, stride, exact_stride, ROWS, COSINE)
        b_two = _exact_score(p_x, p_exact, o_n, m_n, b_second, b_least, dim, stride, exact_stride, ROWS, COSINE)
        m_wins = (b_two > b_one) | ((b_two == b_one) & (b_second < b_code))
        b_code = tl.where(m_close & m_wins, b_second, b_code)
    b_code = tl.where(b_ratio < 0, 0, tl.where(b_ratio != b_ratio, -1, b_code))
    tl.store(p_nearest + o_n, b_code.to(tl.int64), mask=m_n)
