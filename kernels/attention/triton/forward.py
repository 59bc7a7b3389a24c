"""The forward kernel of attention; launch.py says what it computes."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E
from .primitives import (
    EDGE,
    FAR,
    add_product,
    at_extra,
    keep,
    load_block,
    load_places,
    load_rows,
    near_biases,
    pair_bias,
    pair_places,
    row_keys,
    run_of,
    store_bias,
)


@triton.jit
def _forward_block(
    b_sum, b_top, b_weight, b_q, b_q_at, b_0, b_1, b_2, b_3, b_low, b_high, m_q, o_row, block, rows, keys, positions,
    scale, p_key, p_value, p_valid, p_index, p_key_place, p_bias, key_stride, value_stride, drop_below,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr, KIND: tl.constexpr,
    VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    o_j = tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    o_k = block * KEYS + o_j
    m_k = o_k < keys
    b_k = load_block(p_key, block, o_j, o_d, key_stride, m_k, D, KIND == EDGE)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
    if KIND != FAR:
        b_k_at = load_places(p_key_place, o_k, m_k, KIND == EDGE, EUCLIDEAN)
        b_place = pair_places(p_index, b_q_at, b_k_at, positions, EUCLIDEAN, 1)
        b_bias = pair_bias(b_place, b_0, b_1, b_2, b_3, p_bias, o_row, m_q, rows, NEAR, KIND, EUCLIDEAN, 1)
        b_s = b_s * scale + b_bias
    if VALID:
        m_k = m_k & (tl.load(p_valid + o_k, mask=m_k, other=0) != 0)
    if VALID or KIND == EDGE:
        b_s = tl.where(m_k[None, :], b_s, float("-inf"))
    if KIND == FAR:  # scale > 0: the largest product is that of the largest score
        b_now = tl.maximum(b_top, tl.max(b_s, 1) * scale)
        b_p = tl.exp2(b_s * scale - b_now[:, None])
    else:
        b_now = tl.maximum(b_top, tl.max(b_s, 1))
        b_p = tl.exp2(b_s - b_now[:, None])
    b_factor = tl.exp2(b_top - b_now)
    b_weight = b_weight * b_factor + tl.sum(b_p, 1)
    if DROPOUT:
        b_p = tl.where(keep(b_low[:, None], b_high[:, None], o_k[None, :], drop_below), b_p, 0.0)
    # Without values of invalid keys, too: 0 times NaN is none.
    b_v = load_block(p_value, block, o_j, o_d, value_stride, m_k, D, VALID or KIND == EDGE)
    b_sum = b_sum * b_factor[:, None]
    b_sum = add_product(b_sum, b_p.to(b_v.dtype), b_v, scale, PRECISION)
    return b_sum, b_now, b_weight


@triton.jit
def forward_kernel(
    p_query, p_key, p_value,  # (B, H, L, D) by strides
    p_table,  # (1|H, D, K) or (1|H, K)
    p_live,  # (1 + NEAR,) far bucket, near buckets
    p_index,  # (S, S) uint8: 0 far, n the n-th near bucket
    p_query_place,  # (Lq,) or (Lq, 16), see load_places
    p_key_place,
    p_order,  # (query blocks, key blocks) edges first, then mixed ones
    p_counts,  # (query blocks, 2) number of edges, of edges and mixed ones
    p_valid,  # (B, Lk)
    p_seed,  # (1,)
    p_bias,  # (NEAR, B H Lq) work space
    p_output,  # (B, Lq, H, D)
    p_largest, p_weight,  # (B, H, Lq)
    qb, qh, ql, kb, kh, kl, vb, vh, vl,
    heads, queries, keys, positions, buckets, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, VALID: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    """O = softmax(scale Q K^T + bias) V for a block of queries of one head of one tile, and the statistics of its rows.

    Reads keys and values once, writes O, largest and weight (op.py); 4 D operations and one power a score.
    """
    query_blocks = tl.cdiv(queries, QUERIES)
    query_block = tl.program_id(0) % query_blocks
    pair = tl.program_id(0) // query_blocks
    tile = (pair // heads).to(tl.int64)
    head = (pair % heads).to(tl.int64)
    p_key += tile * kb + head * kh
    p_value += tile * vb + head * vh
    p_valid += tile * keys
    if not SHARED:
        p_table += head * buckets * (D if CONTEXTUAL else 1)

    o_q = query_block * QUERIES + tl.arange(0, QUERIES)
    o_d = tl.arange(0, BLOCK_D)
    m_q = o_q < queries
    o_row = pair.to(tl.int64) * queries + o_q
    b_q = load_rows(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D)
    m_extra = at_extra(p_query_place, o_q, m_q, EUCLIDEAN)
    b_far = store_bias(
        p_bias, b_q, m_extra, p_table, p_live, o_row, m_q, rows, scale, o_d, buckets, D, NEAR, BLOCK_L, CONTEXTUAL
    )
    tl.debug_barrier()  # the program reads its biases back, in another layout
    b_0, b_1, b_2, b_3 = near_biases(p_bias, o_row, m_q, rows, True, EUCLIDEAN)
    b_q_at = load_places(p_query_place, o_q, m_q, True, EUCLIDEAN)
    b_low, b_high = o_q, o_q
    if DROPOUT:
        b_low, b_high = row_keys(tl.load(p_seed), o_row)
    if scale < 0:
        b_q = (-b_q.to(tl.float32)).to(b_q.dtype)
    scale = tl.maximum(tl.abs(scale), 1e-30) * LOG2_E  # 0 * -inf would be none

    b_top = tl.full([QUERIES], -1e30, tl.float32)  # finite, so that b_top - b_now is a number
    b_weight = tl.zeros([QUERIES], tl.float32)
    b_sum = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    key_blocks = tl.cdiv(keys, KEYS)
    edges = tl.load(p_counts + 2 * query_block)
    mixed = tl.load(p_counts + 2 * query_block + 1)
    p_order += query_block * key_blocks
    for kind in tl.static_range(EDGE, FAR - 1, -1):
        begin, end = run_of(kind, edges, mixed, key_blocks)
        for t in range(begin, end):
            b_sum, b_top, b_weight = _forward_block(
                b_sum, b_top, b_weight, b_q, b_q_at, b_0, b_1, b_2, b_3, b_low, b_high, m_q, o_row,
                tl.load(p_order + t), rows, keys, positions, scale, p_key, p_value, p_valid, p_index, p_key_place,
                p_bias, kl, vl, drop_below, D, BLOCK_D, KEYS, NEAR, kind, VALID, DROPOUT, PRECISION, EUCLIDEAN,
            )  # fmt: skip

    m_any = b_weight != 0.0  # a valid key; what is not a number stays none
    b_factor = tl.div_rn(kept, tl.where(m_any, b_weight, 1.0)) + (b_far - b_far)  # far biases were not in the scores
    b_output = b_sum * tl.where(m_any, b_factor, 0.0)[:, None]
    o_output = ((tile * queries + o_q)[:, None] * heads + head) * D + o_d[None, :]
    tl.store(p_output + o_output, b_output.to(p_output.dtype.element_ty), mask=m_q[:, None] & (o_d < D)[None, :])
    # The far bias rounds when added back. The weight takes up what was lost, by the very power that backward starts
    # from: it subtracts b_back of the scores, and a row's only weight comes out as one.
    b_largest = b_top + b_far
    b_back = b_largest - b_far
    b_part = b_largest - b_back
    b_lost = (b_back - (b_largest - b_part)) + (b_far - b_part)
    b_weight *= tl.exp2(b_top - b_back) * tl.exp2(b_lost)
    tl.store(p_largest + o_row, tl.where(m_any, b_largest, 0.0), mask=m_q)
    tl.store(p_weight + o_row, tl.where(m_any, b_weight, float("inf")), mask=m_q)
