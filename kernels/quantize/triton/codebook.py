"""A codebook made ready for the search in two kernels: centred, split into two float16, with its biases."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import power_of_two, split

__all__ = ["EXPONENT", "columns_kernel", "split_kernel"]

EXPONENT = tl.constexpr(15)  # numbers are scaled below 2^15; float16 goes to 65504


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
    p_norm,  # (1 + programs,) float32: what codes were scaled by, NaN where one is not finite, and the length
    # of each program's longest code
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

    K D values read (twice for COSINE) and 4 PARTS D for every CODES codes; 2 K D of 16 bits written.
    """
    PADDED: tl.constexpr = (D + DEPTH - 1) // DEPTH * DEPTH
    o_k = tl.program_id(0) * CODES + tl.arange(0, CODES)
    m_k = o_k < size
    b_unit = tl.zeros([CODES], tl.float64)
    if COSINE:
        b_unit = _lengths(p_codebook, o_k, m_k, stride, D, CODES, DEPTH)
    reach = 0.0
    wrong = 0  # whether a code is not finite: then some mean is not
    for start in range(0, D, DEPTH):
        o_d = start + tl.arange(0, DEPTH)
        m_d = o_d < D
        b_centre = _centre(p_sums, o_d, m_d, size, D, PARTS)
        reach = tl.maximum(reach, _reach(p_sums, b_centre, o_d, m_d, D, PARTS))
        wrong = tl.maximum(wrong, tl.max((m_d & ~(tl.abs(b_centre) < float("inf"))).to(tl.int32), 0))
        if not COSINE and tl.program_id(0) == 0:
            tl.store(p_centre + o_d, b_centre, mask=m_d)
    scale, _ = power_of_two(tl.where(reach > 0, reach, 1), EXPONENT)

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
        tl.store(p_norm, tl.where(wrong > 0, float("nan"), scale))
