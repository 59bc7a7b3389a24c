"""The backward kernels of attention; launch.py says what they compute."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E
from .primitives import (
    entry,
    keep,
    load_rows,
    pair_places,
    row_keys,
    store_bias,
    stored_bias,
    where_near,
)


@triton.jit
def rows_kernel(
    p_query,
    p_output, p_grad_output,  # by strides
    p_table, p_live, p_largest, p_weight,
    p_rows,  # (3 + NEAR, B H Lq): number to subtract from scores, factor of weights, sum(dO O), near biases
    qb, qh, ql, ob, oh, ol, gb, gh, gl,
    heads, queries, buckets, rows, scale,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, NEAR: tl.constexpr,
    CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr,
):  # fmt: skip
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
    b_q = load_rows(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D).to(tl.float32)
    b_far = store_bias(
        p_rows + 3 * rows, b_q, p_table, p_live, o_row, m_q, rows, scale, o_d, buckets, D, NEAR, CONTEXTUAL
    )
    b_largest = tl.load(p_largest + o_row, mask=m_q, other=0.0)
    b_top = b_largest - b_far
    b_part = b_top - b_largest
    b_lost = (b_largest - (b_top - b_part)) - (b_far + b_part)  # largest - far = top + lost
    b_factor = tl.exp2(-b_lost) / tl.load(p_weight + o_row, mask=m_q, other=1.0)
    b_o = load_rows(p_output + tile * ob + head * oh, o_q, o_d, ol, m_q, D).to(tl.float32)
    b_do = load_rows(p_grad_output + tile * gb + head * gh, o_q, o_d, gl, m_q, D).to(tl.float32)
    tl.store(p_rows + o_row, b_top, mask=m_q)
    tl.store(p_rows + rows + o_row, b_factor, mask=m_q)
    tl.store(p_rows + 2 * rows + o_row, tl.sum(b_o * b_do, 1), mask=m_q)


@triton.jit
def _queries_block(
    b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, block, rows, keys, positions,
    scale, p_key, p_value, p_valid, p_index, p_query_place, p_key_place, p_bias, key_stride, value_stride,
    drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr, BLOCK_N: tl.constexpr,
    MIXED: tl.constexpr, VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
    o_k = block * KEYS + tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    m_k = o_k < keys
    b_k = load_rows(p_key, o_k, o_d, key_stride, m_k, D)
    b_v = load_rows(p_value, o_k, o_d, value_stride, m_k, D)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * LOG2_E)
    if MIXED:
        b_place = pair_places(p_index, p_query_place, p_key_place, o_q, m_q, o_k, m_k, positions, EUCLIDEAN, 1)
        b_s += stored_bias(b_place, p_bias, o_row, m_q, rows, NEAR, EUCLIDEAN, 1)
    if VALID:
        m_k = m_k & (tl.load(p_valid + o_k, mask=m_k, other=0) != 0)
    b_p = tl.exp2(b_s - b_top[:, None]) * b_factor[:, None]
    if VALID or MIXED:
        b_p = tl.where(m_k[None, :], b_p, 0.0)
    b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
    if DROPOUT:
        b_dp = tl.where(keep(b_low[:, None], b_high[:, None], o_k[None, :], drop_below), b_dp * kept, 0.0)
    b_ds = b_p * (b_dp - b_delta[:, None])
    b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    if MIXED:
        o_n = tl.arange(0, BLOCK_N)
        for n in tl.static_range(NEAR):
            b_near = tl.sum(where_near(b_ds, b_place, n, NEAR, EUCLIDEAN), 1)
            b_dt += tl.where((o_n == n)[None, :], b_near[:, None], 0.0)
    return b_dq, b_dt


@triton.jit
def queries_kernel(
    p_query, p_key, p_value, p_grad_output, p_table, p_live, p_index, p_query_place, p_key_place,
    p_order, p_mixed, p_valid, p_seed,
    p_rows,  # (3 + NEAR, B H Lq)
    p_grad_query,  # (B, Lq, H, D)
    p_partial,  # (B, H, query blocks, NEAR, D) or (B, H, query blocks, NEAR): shares of the table's gradient
    qb, qh, ql, kb, kh, kl, vb, vh, vl, gb, gh, gl,
    heads, queries, keys, positions, buckets, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    BLOCK_N: tl.constexpr, CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, VALID: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr, EUCLIDEAN: tl.constexpr,
):  # fmt: skip
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
    b_top = tl.load(p_rows + o_row, mask=m_q, other=0.0)
    b_factor = tl.load(p_rows + rows + o_row, mask=m_q, other=0.0)
    b_delta = tl.load(p_rows + 2 * rows + o_row, mask=m_q, other=0.0)
    p_bias = p_rows + 3 * rows
    b_low, b_high = o_q, o_q
    if DROPOUT:
        b_low, b_high = row_keys(tl.load(p_seed), o_row)

    b_dq = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    b_dt = tl.zeros([QUERIES, BLOCK_N], tl.float32)
    key_blocks = tl.cdiv(keys, KEYS)
    mixed = tl.load(p_mixed + query_block)
    p_order += query_block * key_blocks
    for t in range(0, mixed):
        b_dq, b_dt = _queries_block(
            b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t),
            rows, keys, positions, scale, p_key, p_value, p_valid, p_index, p_query_place, p_key_place, p_bias,
            kl, vl, drop_below, kept, D, BLOCK_D, KEYS, NEAR, BLOCK_N, True, VALID, DROPOUT, PRECISION, EUCLIDEAN,
        )  # fmt: skip
    for t in range(mixed, key_blocks):
        b_dq, b_dt = _queries_block(
            b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t),
            rows, keys, positions, scale, p_key, p_value, p_valid, p_index, p_query_place, p_key_place, p_bias,
            kl, vl, drop_below, kept, D, BLOCK_D, KEYS, NEAR, BLOCK_N, False, VALID, DROPOUT, PRECISION, EUCLIDEAN,
        )  # fmt: skip

    b_q = b_q.to(tl.float32)
    o_n = tl.arange(0, BLOCK_N)
    p_partial += tl.program_id(0).to(tl.int64) * NEAR * (D if CONTEXTUAL else 1)
    for n in tl.static_range(NEAR):
        b_near = tl.sum(tl.where((o_n == n)[None, :], b_dt, 0.0), 1)
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
    b_dk, b_dv, b_k, b_v, o_k, m_k, block, pair, queries, rows, positions, scale, p_query, p_grad_output, p_index,
    p_query_position, p_key_position, p_rows, p_seed, query_stride, grad_stride, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, NEAR: tl.constexpr, MIXED: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o_q = block * QUERIES + tl.arange(0, QUERIES)
    o_d = tl.arange(0, BLOCK_D)
    m_q = o_q < queries
    o_row = pair.to(tl.int64) * queries + o_q
    b_q = load_rows(p_query, o_q, o_d, query_stride, m_q, D)
    b_do = load_rows(p_grad_output, o_q, o_d, grad_stride, m_q, D)
    b_top = tl.load(p_rows + o_row, mask=m_q, other=0.0)
    b_factor = tl.load(p_rows + rows + o_row, mask=m_q, other=0.0)
    b_delta = tl.load(p_rows + 2 * rows + o_row, mask=m_q, other=0.0)
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * (scale * LOG2_E)  # (keys, queries)
    if MIXED:
        b_place = pair_places(p_index, p_query_position, p_key_position, o_q, m_q, o_k, m_k, positions, -1, 0)
        b_s += stored_bias(b_place, p_rows + 3 * rows, o_row, m_q, rows, NEAR, -1, 0)
    b_p = tl.exp2(b_s - b_top[None, :]) * b_factor[None, :]
    b_p = tl.where(m_k[:, None], b_p, 0.0)
    b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
    b_kept = b_p
    if DROPOUT:
        b_low, b_high = row_keys(tl.load(p_seed), o_row)
        m_keep = keep(b_low[None, :], b_high[None, :], o_k[:, None], drop_below)
        b_kept = tl.where(m_keep, b_p * kept, 0.0)
        b_dp = tl.where(m_keep, b_dp * kept, 0.0)
    b_dv = tl.dot(b_kept.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
    b_ds = b_p * (b_dp - b_delta[None, :])
    b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    return b_dk, b_dv


@triton.jit
def keys_kernel(
    p_query, p_key, p_value, p_grad_output, p_index, p_query_position, p_key_position,
    p_order,  # (key blocks, query blocks) mixed ones first
    p_mixed,  # (key blocks,)
    p_valid, p_seed, p_rows,
    p_grad_key, p_grad_value,  # (B, Lk, H, D)
    qb, qh, ql, kb, kh, kl, vb, vh, vl, gb, gh, gl,
    heads, queries, keys, positions, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
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
    m_used = m_k
    if VALID:
        m_used = m_k & (tl.load(p_valid + tile * keys + o_k, mask=m_k, other=0) != 0)

    b_dk = tl.zeros([KEYS, BLOCK_D], tl.float32)
    b_dv = tl.zeros([KEYS, BLOCK_D], tl.float32)
    query_blocks = tl.cdiv(queries, QUERIES)
    mixed = tl.load(p_mixed + key_block)
    p_order += key_block * query_blocks
    for t in range(0, mixed):
        b_dk, b_dv = _keys_block(
            b_dk, b_dv, b_k, b_v, o_k, m_used, tl.load(p_order + t), pair, queries, rows, positions, scale, p_query,
            p_grad_output, p_index, p_query_position, p_key_position, p_rows, p_seed, ql, gl, drop_below, kept,
            D, BLOCK_D, QUERIES, NEAR, True, DROPOUT, PRECISION,
        )  # fmt: skip
    for t in range(mixed, query_blocks):
        b_dk, b_dv = _keys_block(
            b_dk, b_dv, b_k, b_v, o_k, m_used, tl.load(p_order + t), pair, queries, rows, positions, scale, p_query,
            p_grad_output, p_index, p_query_position, p_key_position, p_rows, p_seed, ql, gl, drop_below, kept,
            D, BLOCK_D, QUERIES, NEAR, False, DROPOUT, PRECISION,
        )  # fmt: skip
    o_output = ((tile * keys + o_k)[:, None] * heads + head) * D + o_d[None, :]
    m_output = m_k[:, None] & (o_d < D)[None, :]
    tl.store(p_grad_key + o_output, (b_dk * scale).to(p_grad_key.dtype.element_ty), mask=m_output)
    tl.store(p_grad_value + o_output, b_dv.to(p_grad_value.dtype.element_ty), mask=m_output)
