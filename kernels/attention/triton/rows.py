"""The O(L D) work around the backward kernels: what they need of every row, and the table's gradient spread."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import at_extra, load_rows, row_keys, store_bias


@triton.jit
def rows_kernel(
    p_query,
    p_output, p_grad_output,  # by strides
    p_table, p_live, p_query_place, p_largest, p_weight, p_seed,
    p_rows,  # (5 + NEAR, B H Lq): number to subtract from scores, factor of weights, sum(dO O), near biases, row keys
    qb, qh, ql, ob, oh, ol, gb, gh, gl,
    heads, queries, buckets, rows, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, NEAR: tl.constexpr,
    CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, EUCLIDEAN: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """What the backward passes need of a row, once: c and f with P = f 2^(x - c), sum(dO O), near biases, row keys.

    float32 keeps f = 1 / weight apart; for half precisions c = largest + log2(weight), whose rounding is far below
    theirs, and f is 1. Reads queries, O and dO, writes 7 to 9 numbers a row.
    """
    query_blocks = tl.cdiv(queries, QUERIES)
    pair = tl.program_id(0) // query_blocks
    tile = (pair // heads).to(tl.int64)
    head = (pair % heads).to(tl.int64)
    if not SHARED:
        p_table += head * buckets * (D if CONTEXTUAL else 1)
    o_q = tl.program_id(0) % query_blocks * QUERIES + tl.arange(0, QUERIES)
    o_d = tl.arange(0, BLOCK_D)
    m_q = o_q < queries
    o_row = pair.to(tl.int64) * queries + o_q
    b_q = load_rows(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D)
    m_extra = at_extra(p_query_place, o_q, m_q, EUCLIDEAN)
    b_far = store_bias(
        p_rows + 3 * rows, b_q, m_extra, p_table, p_live, o_row, m_q, rows, scale, o_d, buckets, D, NEAR, BLOCK_L,
        CONTEXTUAL,
    )  # fmt: skip
    b_largest = tl.load(p_largest + o_row, mask=m_q, other=0.0)
    b_weight = tl.load(p_weight + o_row, mask=m_q, other=1.0)
    b_top = b_largest - b_far
    b_part = b_top - b_largest
    b_lost = (b_largest - (b_top - b_part)) - (b_far + b_part)  # largest - far = top + lost
    if p_query.dtype.element_ty == tl.float32:
        # Correctly rounded, as forward's product was: a weight of one comes out as one.
        tl.store(p_rows + rows + o_row, tl.div_rn(tl.exp2(-b_lost), b_weight), mask=m_q)
    else:
        b_top += tl.log2(b_weight) + b_lost
    b_o = load_rows(p_output + tile * ob + head * oh, o_q, o_d, ol, m_q, D).to(tl.float32)
    b_do = load_rows(p_grad_output + tile * gb + head * gh, o_q, o_d, gl, m_q, D).to(tl.float32)
    tl.store(p_rows + o_row, b_top, mask=m_q)
    tl.store(p_rows + 2 * rows + o_row, tl.sum(b_o * b_do, 1), mask=m_q)
    if DROPOUT:
        b_low, b_high = row_keys(tl.load(p_seed), o_row)
        p_keys = p_rows + (3 + NEAR) * rows + o_row
        tl.store(p_keys, b_low.to(tl.float32, bitcast=True), mask=m_q)
        tl.store(p_keys + rows, b_high.to(tl.float32, bitcast=True), mask=m_q)


@triton.jit
def table_kernel(
    p_near,  # (1|H, NEAR, columns) float32: gradient of the near buckets
    p_live,  # (1 + NEAR,) far bucket, near buckets
    p_gradient,  # (1|H, [D], K)
    buckets, columns,
    NEAR: tl.constexpr, BLOCK_D: tl.constexpr, BUCKETS: tl.constexpr,
):  # fmt: skip
    """Spreads the near buckets' gradients over the table; the far one's is minus their sum, others' are zero.

    Reads NEAR and writes K numbers for each of ``columns``, D of a contextual table or 1.
    """
    o_d = tl.arange(0, BLOCK_D)
    o_k = tl.arange(0, BUCKETS)
    m_d = o_d < columns
    b_sum = tl.zeros([BLOCK_D], tl.float32)
    b_gradient = tl.zeros([BLOCK_D, BUCKETS], tl.float32)
    for n in tl.static_range(NEAR):
        b_near = tl.load(p_near + (tl.program_id(0) * NEAR + n) * columns + o_d, mask=m_d, other=0.0)
        b_sum += b_near
        m_k = o_k == tl.load(p_live + n + 1)
        b_gradient = tl.where(m_k[None, :], b_near[:, None], b_gradient)
    m_k = o_k == tl.load(p_live)
    b_gradient = tl.where(m_k[None, :], -b_sum[:, None], b_gradient)
    o = (tl.program_id(0) * columns + o_d[:, None]) * buckets + o_k[None, :]
    tl.store(p_gradient + o, b_gradient.to(p_gradient.dtype.element_ty), mask=m_d[:, None] & (o_k < buckets)[None, :])
