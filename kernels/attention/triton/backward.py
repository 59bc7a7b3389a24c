"""The backward kernels of attention that walk through pairs of blocks; launch.py says what they compute."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E
from .primitives import (
    EDGE,
    FAR,
    add_product,
    at_extra,
    beyond,
    column,
    entry,
    keep,
    load_block,
    load_places,
    load_rows,
    load_vector,
    near_biases,
    pair_bias,
    pair_places,
    row_keys,
    run_of,
)


@triton.jit
def _queries_block(
    b_dq, b_dt, b_q, b_do, b_q_at, b_0, b_1, b_2, b_3, b_top, b_factor, b_delta, b_low, b_high, m_q, o_row, block, rows,
    keys, positions, scale, p_key, p_value, p_valid, p_index, p_key_place, p_bias, key_stride, value_stride,
    drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr, BLOCK_N: tl.constexpr,
    KIND: tl.constexpr, VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    o_j = tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    o_k = block * KEYS + o_j
    m_k = o_k < keys
    if VALID:
        m_k = m_k & (tl.load(p_valid + o_k, mask=m_k, other=0) != 0)
    b_k = load_block(p_key, block, o_j, o_d, key_stride, o_k < keys, D, KIND == EDGE)
    b_v = load_block(p_value, block, o_j, o_d, value_stride, m_k, D, KIND == EDGE)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
    if KIND != FAR:
        b_k_at = load_places(p_key_place, o_k, o_k < keys, KIND == EDGE, EUCLIDEAN)
        b_place = pair_places(p_index, b_q_at, b_k_at, positions, EUCLIDEAN, 1)
        b_s += pair_bias(b_place, b_0, b_1, b_2, b_3, p_bias, o_row, m_q, rows, NEAR, KIND, EUCLIDEAN, 1)
    b_p = tl.exp2(b_s - b_top[:, None])
    if b_q.dtype == tl.float32:
        b_p *= b_factor[:, None]
    if DROPOUT:
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_dp = tl.where(keep(b_low[:, None], b_high[:, None], o_k[None, :], drop_below), b_dp * kept, 0.0)
        b_ds = b_p * (b_dp - b_delta[:, None])
    else:  # subtracted where the product starts from
        b_dp = tl.zeros([b_q.shape[0], KEYS], tl.float32) - b_delta[:, None]
        b_ds = b_p * tl.dot(b_do, tl.trans(b_v), b_dp, input_precision=PRECISION)
    if VALID or KIND == EDGE:  # last: the value of an invalid key may be anything
        b_ds = tl.where(m_k[None, :], b_ds, 0.0)
    if VALID:  # and so may the key, of which 0 is not 0 times it
        b_k = tl.where(m_k[:, None], b_k, 0.0)
    b_dq = add_product(b_dq, b_ds.to(b_k.dtype), b_k, scale, PRECISION)
    if KIND != FAR:
        o_n = tl.arange(0, BLOCK_N)
        for n in tl.static_range(NEAR):
            if EUCLIDEAN < 0 or n < 3 or KIND == EDGE:
                b_near = tl.sum(tl.where(beyond(b_place, n, EUCLIDEAN, 0.5), b_ds, 0.0), 1)
                b_dt += tl.where((o_n == n)[None, :], b_near[:, None], 0.0)
    return b_dq, b_dt


@triton.jit
def queries_kernel(
    p_query, p_key, p_value, p_grad_output, p_table, p_live, p_index, p_query_place, p_key_place,
    p_order, p_counts, p_valid, p_seed,
    p_rows,  # (3 + NEAR, B H Lq)
    p_grad_query,  # (B, Lq, H, D)
    p_partial,  # (B, H, query blocks, NEAR, D) or (B, H, query blocks, NEAR): shares of the table's gradient
    qb, qh, ql, kb, kh, kl, vb, vh, vl, gb, gh, gl,
    heads, queries, keys, positions, buckets, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    BLOCK_N: tl.constexpr, CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, VALID: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    """dS = P (dO V^T - sum(dO O)), dQ = scale (dS K + dT R) and dT = dS summed by near bucket, for a block of queries.

    R are the table's columns less the far one. Reads keys and values once; 6 D operations and one power a score.
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
    b_do = load_rows(p_grad_output + tile * gb + head * gh, o_q, o_d, gl, m_q, D)
    b_q_at = load_places(p_query_place, o_q, m_q, True, EUCLIDEAN)
    b_top = tl.load(p_rows + o_row, mask=m_q, other=0.0)
    b_factor = b_top
    if b_q.dtype == tl.float32:
        b_factor = tl.load(p_rows + rows + o_row, mask=m_q, other=0.0)
    b_delta = tl.load(p_rows + 2 * rows + o_row, mask=m_q, other=0.0)
    p_bias = p_rows + 3 * rows
    b_0, b_1, b_2, b_3 = near_biases(p_bias, o_row, m_q, rows, True, EUCLIDEAN)
    b_low, b_high = o_q, o_q
    if DROPOUT:
        b_low, b_high = row_keys(tl.load(p_seed), o_row)

    b_dq = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    b_dt = tl.zeros([QUERIES, BLOCK_N], tl.float32)
    key_blocks = tl.cdiv(keys, KEYS)
    edges = tl.load(p_counts + 2 * query_block)
    mixed = tl.load(p_counts + 2 * query_block + 1)
    p_order += query_block * key_blocks
    for kind in tl.static_range(EDGE, FAR - 1, -1):
        begin, end = run_of(kind, edges, mixed, key_blocks)
        for t in range(begin, end):
            b_dq, b_dt = _queries_block(
                b_dq, b_dt, b_q, b_do, b_q_at, b_0, b_1, b_2, b_3, b_top, b_factor, b_delta, b_low, b_high, m_q, o_row,
                tl.load(p_order + t), rows, keys, positions, scale * LOG2_E, p_key, p_value, p_valid, p_index,
                p_key_place, p_bias, kl, vl, drop_below, kept, D, BLOCK_D, KEYS, NEAR, BLOCK_N, kind, VALID, DROPOUT,
                PRECISION, EUCLIDEAN,
            )  # fmt: skip

    # In closed form sums are those of a bucket and of the ones further from the far bucket; a query at an extra
    # position has one bucket only, and no gradient of it.
    m_extra = at_extra(p_query_place, o_q, m_q, EUCLIDEAN)
    b_dt = tl.where(m_extra[:, None], 0.0, b_dt)
    b_q = b_q.to(tl.float32)
    if VALID:  # a query without a valid key may hold anything
        b_q = tl.where((tl.max((b_dt != 0.0).to(tl.int32), 1) > 0)[:, None], b_q, 0.0)
    o_n = tl.arange(0, BLOCK_N)
    p_partial += tl.program_id(0).to(tl.int64) * NEAR * (D if CONTEXTUAL else 1)
    for n in tl.static_range(NEAR):
        b_near = column(b_dt, o_n, n)
        if EUCLIDEAN >= 0:
            b_near -= column(b_dt, o_n, n - 1 if n < EUCLIDEAN else n + 1)
        if CONTEXTUAL:
            b_dq += b_near[:, None] * entry(p_table, p_live, n, o_d, buckets, D)[None, :]
            b_share = tl.sum(b_near[:, None] * b_q, 0) * scale
            tl.store(p_partial + n * D + o_d, b_share, mask=o_d < D)
        else:
            tl.store(p_partial + n, tl.sum(b_near, 0))
    o_output = ((tile * queries + o_q)[:, None] * heads + head) * D + o_d[None, :]
    m_output = m_q[:, None] & (o_d < D)[None, :]
    tl.store(p_grad_query + o_output, (b_dq * scale).to(p_grad_query.dtype.element_ty), mask=m_output)


@triton.jit
def _keys_block(
    b_dk, b_dv, b_k, b_v, b_k_at, o_k, block, pair, queries, rows, positions, scale, p_query, p_grad_output, p_index,
    p_query_place, p_rows, query_stride, grad_stride, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, NEAR: tl.constexpr, KIND: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    o_i = tl.arange(0, QUERIES)
    o_d = tl.arange(0, BLOCK_D)
    o_q = block * QUERIES + o_i
    m_q = o_q < queries
    o_row = pair.to(tl.int64) * queries + o_q
    b_q = load_block(p_query, block, o_i, o_d, query_stride, m_q, D, KIND == EDGE)
    b_do = load_block(p_grad_output, block, o_i, o_d, grad_stride, m_q, D, KIND == EDGE)
    b_top = load_vector(p_rows, o_row, m_q, KIND == EDGE)
    b_delta = load_vector(p_rows + 2 * rows, o_row, m_q, KIND == EDGE)
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * scale  # (keys, queries)
    if KIND != FAR:
        b_q_at = load_places(p_query_place, o_q, m_q, KIND == EDGE, EUCLIDEAN)
        b_place = pair_places(p_index, b_q_at, b_k_at, positions, EUCLIDEAN, 0)
        b_0, b_1, b_2, b_3 = near_biases(p_rows + 3 * rows, o_row, m_q, rows, KIND == EDGE, EUCLIDEAN)
        b_s += pair_bias(b_place, b_0, b_1, b_2, b_3, p_rows + 3 * rows, o_row, m_q, rows, NEAR, KIND, EUCLIDEAN, 0)
    b_p = tl.exp2(b_s - b_top[None, :])
    if b_q.dtype == tl.float32:
        b_p *= load_vector(p_rows + rows, o_row, m_q, KIND == EDGE)[None, :]
    # Beyond the last query dO is zero and so is dP; what P is there is of no account, as long as it is finite.
    b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
    b_kept = b_p
    if DROPOUT:
        p_keys = p_rows + (3 + NEAR) * rows
        b_low = load_vector(p_keys, o_row, m_q, KIND == EDGE).to(tl.uint32, bitcast=True)
        b_high = load_vector(p_keys + rows, o_row, m_q, KIND == EDGE).to(tl.uint32, bitcast=True)
        m_keep = keep(b_low[None, :], b_high[None, :], o_k[:, None], drop_below)
        b_dp = tl.where(m_keep, b_dp * kept, 0.0)
        b_kept = tl.where(m_keep, b_p * kept, 0.0)
    b_dv = add_product(b_dv, b_kept.to(b_do.dtype), b_do, scale, PRECISION)
    b_ds = b_p * (b_dp - b_delta[None, :])
    b_dk = add_product(b_dk, b_ds.to(b_q.dtype), b_q, scale, PRECISION)
    return b_dk, b_dv


@triton.jit
def keys_kernel(
    p_query, p_key, p_value, p_grad_output, p_index, p_query_place, p_key_place,
    p_order,  # (key blocks, query blocks) edges first, then mixed ones
    p_counts,  # (key blocks, 2)
    p_valid, p_rows,
    p_grad_key, p_grad_value,  # (B, Lk, H, D)
    qb, qh, ql, kb, kh, kl, vb, vh, vl, gb, gh, gl,
    heads, queries, keys, positions, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    """dK = scale dS^T Q and dV = P^T dO for a block of keys, whose scores are the transposed ones.

    Reads queries, dO and p_rows once; 8 D operations and one power a score. Invalid keys need no masks inside: a key's
    gradients come from its own scores alone, and are zeroed at the end.
    """
    key_blocks = tl.cdiv(keys, KEYS)
    key_block = tl.program_id(0) % key_blocks
    pair = tl.program_id(0) // key_blocks
    tile = (pair // heads).to(tl.int64)
    head = (pair % heads).to(tl.int64)
    p_query += tile * qb + head * qh
    p_grad_output += tile * gb + head * gh
    o_k = key_block * KEYS + tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    m_k = o_k < keys
    b_k = load_rows(p_key + tile * kb + head * kh, o_k, o_d, kl, m_k, D)
    b_v = load_rows(p_value + tile * vb + head * vh, o_k, o_d, vl, m_k, D)
    b_k_at = load_places(p_key_place, o_k, m_k, True, EUCLIDEAN)

    b_dk = tl.zeros([KEYS, BLOCK_D], tl.float32)
    b_dv = tl.zeros([KEYS, BLOCK_D], tl.float32)
    query_blocks = tl.cdiv(queries, QUERIES)
    edges = tl.load(p_counts + 2 * key_block)
    mixed = tl.load(p_counts + 2 * key_block + 1)
    p_order += key_block * query_blocks
    for kind in tl.static_range(EDGE, FAR - 1, -1):
        begin, end = run_of(kind, edges, mixed, query_blocks)
        for t in range(begin, end):
            b_dk, b_dv = _keys_block(
                b_dk, b_dv, b_k, b_v, b_k_at, o_k, tl.load(p_order + t), pair, queries, rows, positions, scale * LOG2_E,
                p_query, p_grad_output, p_index, p_query_place, p_rows, ql, gl, drop_below, kept,
                D, BLOCK_D, QUERIES, NEAR, kind, DROPOUT, PRECISION, EUCLIDEAN,
            )  # fmt: skip
    if VALID:
        m_used = tl.load(p_valid + tile * keys + o_k, mask=m_k, other=0) != 0
        b_dk = tl.where(m_used[:, None], b_dk, 0.0)
        b_dv = tl.where(m_used[:, None], b_dv, 0.0)
    o_output = ((tile * keys + o_k)[:, None] * heads + head) * D + o_d[None, :]
    m_output = m_k[:, None] & (o_d < D)[None, :]
    tl.store(p_grad_key + o_output, (b_dk * scale).to(p_grad_key.dtype.element_ty), mask=m_output)
    tl.store(p_grad_value + o_output, b_dv.to(p_grad_value.dtype.element_ty), mask=m_output)
