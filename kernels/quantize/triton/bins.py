"""Bins of values: edges made ready, encoding, and decoding of codes, also those of vectors."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import nearest_integer

__all__ = ["decode_kernel", "decode_rows_kernel", "encode_kernel", "plan_kernel"]

# (value - first) / step errs by bins 2^-24 three times; with edges off by a quarter step it stays under half of one.
_MOST_EQUAL = tl.constexpr(800_000)


@triton.jit
def _round_up(b_edge):
    """The least float32 that is not below b_edge: a float32 is below one where it is below the other."""
    b_near = b_edge.to(tl.float32)
    b_bits = b_near.to(tl.int32, bitcast=True)
    b_next = tl.where(b_near > 0, b_bits + 1, tl.where(b_near < 0, b_bits - 1, 1)).to(tl.float32, bitcast=True)
    return tl.where(b_near.to(tl.float64) < b_edge.to(tl.float64), b_next, b_near)


@triton.jit
def plan_kernel(
    p_edges,  # (K + 1,), `stride` apart
    p_inner,  # (SIZE,) float32: the K - 1 inner edges, then inf
    p_plan,  # (3,) float32: first inner edge, bins a unit, 1 where arithmetic finds bins
    bins,  # K
    stride,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Inner edges as float32 for values that are no wider, and whether they are equally spaced.

    One program: K edges read, SIZE written.
    """
    first = _round_up(tl.load(p_edges + stride)).to(tl.float64)
    last = _round_up(tl.load(p_edges + (bins - 1) * stride)).to(tl.float64)
    step = (last - first) / tl.maximum(bins - 2, 1)
    b_uneven = tl.zeros([BLOCK], tl.int32)
    for start in range(0, SIZE, BLOCK):
        o = start + tl.arange(0, BLOCK)
        m = o < bins - 1
        b_edge = tl.load(p_edges + (o + 1) * stride, mask=m, other=float("inf"))
        b_inner = tl.where(m, _round_up(b_edge), float("inf"))
        tl.store(p_inner + o, b_inner, mask=o < SIZE)
        b_off = tl.abs(b_inner.to(tl.float64) - (first + o * step))
        b_uneven |= (m & ~(b_off < 0.25 * step)).to(tl.int32)
    even = (tl.max(b_uneven, 0) == 0) & (bins > 2) & (bins <= _MOST_EQUAL)
    tl.store(p_plan, first.to(tl.float32))
    tl.store(p_plan + 1, tl.where(even, 1 / step, 0).to(tl.float32))
    tl.store(p_plan + 2, tl.where(even, 1.0, 0.0))


@triton.jit
def encode_kernel(
    p_values,  # (N,) float32 or narrower
    p_inner,  # both from plan_kernel
    p_plan,
    p_codes,  # (N,) int64
    count,
    bins,
    LEVELS: tl.constexpr,  # of the search: SIZE = 2^LEVELS
    BLOCK: tl.constexpr,
):
    """How many inner edges are not above a value, -1 for NaN: N values read, N codes written, edges from cache.

    Two comparisons a value where edges are equally spaced, else LEVELS.
    """
    start = tl.program_id(0).to(tl.int64) * BLOCK
    p_values += start
    p_codes += start
    left = tl.minimum(count - start, BLOCK).to(tl.int32)
    first = tl.load(p_plan)
    inverse = tl.load(p_plan + 1)
    equal = tl.load(p_plan + 2) > 0
    if left == BLOCK:  # without masks accesses stay wide
        _encode(p_values, p_inner, p_codes, first, inverse, equal, left, bins, LEVELS, BLOCK, False)
    else:
        _encode(p_values, p_inner, p_codes, first, inverse, equal, left, bins, LEVELS, BLOCK, True)


@triton.jit
def _encode(
    p_values, p_inner, p_codes, first, inverse, equal, left, bins,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    # Two values a thread: then 4 bytes in and 8 bytes out are laid out alike.
    o = tl.max_contiguous(tl.multiple_of(tl.arange(0, BLOCK), 2), 2)
    if RAGGED:
        m = o < left
        b_value = tl.load(p_values + o, mask=m, other=0).to(tl.float32)
    else:
        b_value = tl.load(p_values + o).to(tl.float32)
    b_code = tl.zeros([BLOCK], tl.int32)
    if equal:  # the nearest edge by arithmetic, then the side of it that the value is on, exactly
        b_edge = tl.minimum(tl.maximum((b_value - first) * inverse, 0.0), bins - 2.0)
        b_code, _ = nearest_integer(b_edge)
        b_code += (b_value >= tl.load(p_inner + b_code)).to(tl.int32)
    else:
        for level in tl.static_range(1, LEVELS + 1):
            m_above = b_value >= tl.load(p_inner + ((1 << LEVELS - level) - 1) + b_code)
            b_code += tl.where(m_above, 1 << LEVELS - level, 0)
        b_code = tl.minimum(b_code, bins - 1)  # inf is not above what fills up the edges
    b_code = tl.where(b_value == b_value, b_code, -1)
    if RAGGED:
        tl.store(p_codes + o, b_code.to(tl.int64), mask=m)
    else:
        tl.store(p_codes + o, b_code.to(tl.int64))


@triton.jit
def decode_kernel(
    p_codes,  # (N,) int64
    p_centres,  # (K,)
    p_values,  # (N,)
    count,
    size,
    BLOCK: tl.constexpr,
):
    """``centres[codes]``, NaN where a code is none of 0..K-1: N codes read, N values written."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    p_codes += start
    p_values += start
    left = tl.minimum(count - start, BLOCK).to(tl.int32)
    if left == BLOCK:
        _decode(p_codes, p_centres, p_values, left, size, BLOCK, False)
    else:
        _decode(p_codes, p_centres, p_values, left, size, BLOCK, True)


@triton.jit
def _decode(p_codes, p_centres, p_values, left, size, BLOCK: tl.constexpr, RAGGED: tl.constexpr):
    o = tl.max_contiguous(tl.multiple_of(tl.arange(0, BLOCK), 2), 2)
    if RAGGED:
        b_code = tl.load(p_codes + o, mask=o < left, other=-1)
    else:
        b_code = tl.load(p_codes + o)
    m_known = (b_code >= 0) & (b_code < size)
    b_value = tl.load(p_centres + tl.where(m_known, b_code, 0).to(tl.int32))
    b_value = tl.where(m_known, b_value, float("nan")).to(p_values.dtype.element_ty)
    if RAGGED:
        tl.store(p_values + o, b_value, mask=o < left)
    else:
        tl.store(p_values + o, b_value)


@triton.jit
def decode_rows_kernel(
    p_codes,  # (N,) int64
    p_centres,  # (K, D), rows `stride` apart
    p_values,  # (N, D)
    rows,
    size,
    stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """``centres[codes]`` of vectors: N codes and N D values read, N D written."""
    o_n = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    o_d = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    m_n = o_n < rows
    m_d = o_d < D
    b_code = tl.load(p_codes + o_n, mask=m_n, other=-1)
    m_known = (b_code >= 0) & (b_code < size)
    b_row = tl.where(m_known, b_code, 0)
    b_value = tl.load(p_centres + b_row[:, None] * stride + o_d[None, :], mask=m_d[None, :], other=0)
    b_value = tl.where(m_known[:, None], b_value, float("nan")).to(p_values.dtype.element_ty)
    tl.store(p_values + o_n[:, None] * D + o_d[None, :], b_value, mask=m_n[:, None] & m_d[None, :])
