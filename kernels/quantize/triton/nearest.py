"""Nearest codes: a codebook made ready in two kernels, and the search in one.

The nearest code of x maximises ``(x - centre).c_k + bias_k`` (``eager.prepare``). Both factors are split into two
float16, scaled by powers of two (``_triton.language.split``), a vector by its own, the codes by one. Products are
three on tensor cores, of 22 bits together, with float32 sums, for float32, bfloat16 and float16 alike: what float32
tells apart is told apart whatever the input's type.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import power_of_two, product, split

__all__ = ["columns_kernel", "nearest_kernel", "split_kernel"]

_EXPONENT = tl.constexpr(15)  # numbers are scaled below 2^15; float16 goes to 65504


@triton.jit
def _lengths(p_codebook, o_k, m_k, stride, D: tl.constexpr, CODES: tl.constexpr, DEPTH: tl.constexpr):
    """What codes are to be multiplied by for unit length, float64 (CODES,); 0 for a zero code."""
    b_square = tl.zeros([CODES], tl.float64)
    for start in range(0, D, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m = m_k[:, None] & (o_d < D)[None, :]
        b_c = tl.load(p_codebook + o_k[:, None].to(tl.int64) * stride + o_d[None, :], mask=m, other=0).to(tl.float64)
        b_square += tl.sum(b_c * b_c, 1)
    return tl.where(b_square > 0, 1 / tl.sqrt(tl.where(b_square > 0, b_square, 1)), 0)


@triton.jit
def columns_kernel(
    p_codebook,  # (K, D), codes `stride` apart
    p_sums,  # (4, PARTS, D) float64: sums, sums of squares, least, greatest
    size,
    stride,
    D: tl.constexpr,
    CODES: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    COSINE: tl.constexpr,
):
    """What the codes of a part come to in every dimension; unit codes for COSINE. K D values read, 4 PARTS D written.

    A part is every PARTS-th block of CODES, so that the order of additions depends on K alone.
    """
    part = tl.program_id(0)
    for start in range(0, D, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m_d = o_d < D
        b_sum = tl.zeros([DEPTH], tl.float64)
        b_square = tl.zeros([DEPTH], tl.float64)
        b_least = tl.full([DEPTH], float("inf"), tl.float64)
        b_greatest = tl.full([DEPTH], float("-inf"), tl.float64)
        for first in range(part * CODES, size, PARTS * CODES):
            o_k = first + tl.arange(0, CODES)
            m_k = o_k < size
            m = m_k[:, None] & m_d[None, :]
            p_c = p_codebook + o_k[:, None].to(tl.int64) * stride + o_d[None, :]
            b_c = tl.load(p_c, mask=m, other=0).to(tl.float64)
            if COSINE:
                b_c *= _lengths(p_codebook, o_k, m_k, stride, D, CODES, DEPTH)[:, None]
            b_sum += tl.sum(b_c, 0)
            b_square += tl.sum(b_c * b_c, 0)
            b_least = tl.minimum(b_least, tl.min(tl.where(m_k[:, None], b_c, float("inf")), 0))
            b_greatest = tl.maximum(b_greatest, tl.max(tl.where(m_k[:, None], b_c, float("-inf")), 0))
        p_part = p_sums + part * D + o_d
        tl.store(p_part, b_sum, mask=m_d)
        tl.store(p_part + PARTS * D, b_square, mask=m_d)
        tl.store(p_part + 2 * PARTS * D, b_least, mask=m_d)
        tl.store(p_part + 3 * PARTS * D, b_greatest, mask=m_d)


@triton.jit
def _centre(p_sums, o_d, m_d, size, D: tl.constexpr, PARTS: tl.constexpr):
    """The mean code, rounded to a multiple of a power of two near the spread; float32 (DEPTH,).

    Rounded, it is exact to subtract from data on a grid: what ties before ties after.
    """
    o_part = tl.arange(0, PARTS)
    p_part = p_sums + o_part[:, None] * D + o_d[None, :]
    b_mean = tl.sum(tl.load(p_part, mask=m_d[None, :], other=0), 0) / size
    b_square = tl.sum(tl.load(p_part + PARTS * D, mask=m_d[None, :], other=0), 0) / size
    b_variance = tl.maximum(b_square - b_mean * b_mean, 0)
    # What is left of equal numbers by rounding is no spread.
    b_variance = tl.where(b_variance > b_square * 1e-14, b_variance, 0).to(tl.float32)
    b_step, b_inverse = power_of_two(tl.sqrt(b_variance), 0)  # the inverse is the power of two above the spread
    b_scaled = b_mean * b_step.to(tl.float64)
    b_whole = tl.floor(b_scaled + 0.5)
    b_even = b_whole - 2 * tl.floor(b_whole * 0.5)  # 1 where odd
    b_whole = tl.where(b_whole - b_scaled == 0.5, b_whole - b_even, b_whole)
    return tl.where(b_variance > 0, b_whole * b_inverse.to(tl.float64), b_mean).to(tl.float32)


@triton.jit
def _reach(p_sums, b_centre, o_d, m_d, D: tl.constexpr, PARTS: tl.constexpr):
    """The largest difference of any code from the centre; ()."""
    p_part = p_sums + (2 * PARTS + tl.arange(0, PARTS)[:, None]) * D + o_d[None, :]
    b_least = tl.min(tl.load(p_part, mask=m_d[None, :], other=0), 0)
    b_greatest = tl.max(tl.load(p_part + PARTS * D, mask=m_d[None, :], other=0), 0)
    b_reach = tl.maximum(b_greatest - b_centre, b_centre - b_least).to(tl.float32)
    return tl.max(tl.where(m_d, b_reach, 0), 0)


@triton.jit
def _centred(p_codebook, b_unit, b_centre, o_k, o_d, m_k, m_d, stride, COSINE: tl.constexpr):
    """Codes without their mean, float32 (CODES, DEPTH)."""
    m = m_k[:, None] & m_d[None, :]
    b_c = tl.load(p_codebook + o_k[:, None].to(tl.int64) * stride + o_d[None, :], mask=m, other=0)
    if COSINE:
        b_c = (b_c.to(tl.float64) * b_unit[:, None] - b_centre[None, :].to(tl.float64)).to(tl.float32)
    else:
        b_c = b_c.to(tl.float32) - b_centre[None, :]
    return tl.where(m, b_c, 0)


@triton.jit
def split_kernel(
    p_codebook,  # (K, D), codes `stride` apart
    p_sums,  # (4, PARTS, D) float64, from columns_kernel
    p_high,  # (K up to a multiple of CODES, D up to a multiple of DEPTH) float16; 0 behind D
    p_low,
    p_bias,  # (K up to a multiple of CODES,) float32; -inf behind K
    p_centre,  # (D,) float32; not for COSINE, where taking one vector from all codes moves all scores alike
    p_exact,  # (K, D) float32 centred unit codes; for COSINE only
    p_norm,  # (1 + programs,) float32: what codes were scaled by, and the length of each program's longest code
    size,
    stride,
    D: tl.constexpr,
    CODES: tl.constexpr,
    DEPTH: tl.constexpr,
    PARTS: tl.constexpr,
    COSINE: tl.constexpr,
):
    """Centre, ``c - centre`` (of unit codes for COSINE) as two float16, and the bias ``-|c - centre|^2 / 2``.

    Biases and lengths are of scaled codes: squares of neither small nor large ones leave float32.
    """
    PADDED: tl.constexpr = (D + DEPTH - 1) // DEPTH * DEPTH
    o_k = tl.program_id(0) * CODES + tl.arange(0, CODES)
    m_k = o_k < size
    b_unit = tl.zeros([CODES], tl.float64)
    if COSINE:
        b_unit = _lengths(p_codebook, o_k, m_k, stride, D, CODES, DEPTH)
    reach = 0.0
    for start in range(0, D, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m_d = o_d < D
        b_centre = _centre(p_sums, o_d, m_d, size, D, PARTS)
        reach = tl.maximum(reach, _reach(p_sums, b_centre, o_d, m_d, D, PARTS))
        if not COSINE and tl.program_id(0) == 0:
            tl.store(p_centre + o_d, b_centre, mask=m_d)
    scale, _ = power_of_two(tl.where(reach > 0, reach, 1), _EXPONENT)

    b_square = tl.zeros([CODES], tl.float64)
    for start in range(0, D, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m_d = o_d < D
        b_centre = _centre(p_sums, o_d, m_d, size, D, PARTS)
        b_c = _centred(p_codebook, b_unit, b_centre, o_k, o_d, m_k, m_d, stride, COSINE)
        b_scaled = b_c * scale
        b_square += tl.sum(b_scaled.to(tl.float64) * b_scaled.to(tl.float64), 1)
        b_high, b_low = split(b_scaled)
        o_c = o_k[:, None].to(tl.int64) * PADDED + o_d[None, :]
        tl.store(p_high + o_c, b_high)
        tl.store(p_low + o_c, b_low)
        if COSINE:
            p_c = p_exact + o_k[:, None].to(tl.int64) * D + o_d[None, :]
            tl.store(p_c, b_c, mask=m_k[:, None] & m_d[None, :])
    b_bias = tl.zeros([CODES], tl.float32) if COSINE else (-0.5 * b_square).to(tl.float32)
    tl.store(p_bias + o_k, tl.where(m_k, b_bias, float("-inf")))
    tl.store(p_norm + 1 + tl.program_id(0), tl.sqrt(tl.max(b_square.to(tl.float32), 0)))
    if tl.program_id(0) == 0:
        tl.store(p_norm, scale)


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
    b_scale, _ = power_of_two(b_finite, _EXPONENT)
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
