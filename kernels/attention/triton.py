"""Relative-position attention on the GPU: forward, dQ with the table's gradient, dK with dV; no atomics.

Logits are in units of ln 2. The bias of the most frequent ("far") bucket is subtracted from every row, which
softmax does not see, so only the other ("near") buckets need a bias and a gradient sum: the far one's gradient is
minus the sum of theirs. Pairs of blocks that are far throughout, 71 % of a 32 x 32 grid in blocks of 64, need
neither; every block of rows has a list of its column blocks, mixed ones first, and walks the two parts in turn.

    forward  S = Q K^T + bias,  O = P V                                       4 Lq Lk D operations
    rows     what backward needs of a row: shift, 1 / weight, sum(dO O), the near biases
    queries  dS = P (dO V^T - sum(dO O)),  dQ = dS K + dT R,  dR = Q^T dT     6 Lq Lk D
    keys     dK = dS^T Q,  dV = P^T dO                                        8 Lq Lk D
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .dropout import threshold
from .eager import empty_like_heads
from .layout import Layout

__all__ = ["TILES", "backward", "forward", "tile_for"]


@dataclass(frozen=True)
class Tile:
    """Queries and keys of a block, warps and pipeline stages of a program."""

    queries: int
    keys: int
    warps: int
    stages: int


# By architecture, width of an operand in bytes, and pass; for head dimensions up to 64. Chosen by what they compile
# to (registers, spills, shared memory: tests/kernels/test_attention_aot.py), not yet by time on a GPU.
TILES = {
    (86, 2, "forward"): Tile(64, 32, 4, 2),
    (86, 2, "queries"): Tile(64, 32, 4, 2),
    (86, 2, "keys"): Tile(32, 64, 4, 2),
    (86, 4, "forward"): Tile(32, 32, 4, 2),
    (86, 4, "queries"): Tile(32, 32, 4, 2),
    (86, 4, "keys"): Tile(32, 32, 4, 2),
    (90, 2, "forward"): Tile(64, 32, 4, 2),
    (90, 2, "queries"): Tile(64, 32, 4, 2),
    (90, 2, "keys"): Tile(32, 64, 4, 2),
    (90, 4, "forward"): Tile(32, 32, 4, 2),
    (90, 4, "queries"): Tile(32, 32, 4, 2),
    (90, 4, "keys"): Tile(32, 32, 4, 2),
}
_PRECISION = "ieee"  # of float32 products: tf32 would be rounded by truncation on sm_86
_ROWS = 64  # rows of a program of rows_kernel and block_kernel


# ---------------------------------------------------------------- device functions


@triton.jit
def _row_keys(seed, o_row):
    """64 key bits of each row, as two uint32 (dropout.py)."""
    z = seed.to(tl.uint64) + (o_row + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z & 0xFFFFFFFF).to(tl.uint32), (z >> 32).to(tl.uint32)


@triton.jit
def _keep(b_low, b_high, o_k, drop_below):
    """Which weights are kept; the operands broadcast against each other."""
    x = o_k.to(tl.uint32) * 0x9E3779B9 + b_low
    x = (x ^ (x >> 16)) * 0x21F0AAAD + b_high
    x = (x ^ (x >> 15)) * 0x735A2D97
    x = x ^ (x >> 15)
    return (x >> 1).to(tl.int32) >= drop_below


@triton.jit
def _rows_of(p, o_l, o_d, stride, m_l, D: tl.constexpr):
    """Rows o_l of a (L, D) matrix, zeros beyond its edges."""
    m = m_l[:, None] & (o_d < D)[None, :]
    return tl.load(p + o_l.to(tl.int64)[:, None] * stride + o_d[None, :], mask=m, other=0.0)


@triton.jit
def _near_bias(b_query, p_table, p_live, n, scale, o_d, buckets, D: tl.constexpr, CONTEXTUAL: tl.constexpr):
    """Bias of live bucket n (0 is far) for each row, in units of ln 2."""
    k = tl.load(p_live + n)
    if CONTEXTUAL:
        b_entry = tl.load(p_table + o_d * buckets + k, mask=o_d < D, other=0.0).to(tl.float32)
        b_bias = tl.sum(b_query * b_entry[None, :], 1) * (scale * 1.4426950408889634)
    else:
        b_bias = tl.zeros([b_query.shape[0]], tl.float32) + tl.load(p_table + k).to(tl.float32) * 1.4426950408889634
    return b_bias


@triton.jit
def _store_bias(
    p_bias, b_query, p_table, p_live, o_row, m_row, rows, scale, o_d, buckets,
    D: tl.constexpr, NEAR: tl.constexpr, CONTEXTUAL: tl.constexpr,
):  # fmt: skip
    """p_bias (NEAR, rows) = near biases less the far bias, which is returned."""
    b_far = _near_bias(b_query, p_table, p_live, 0, scale, o_d, buckets, D, CONTEXTUAL)
    for n in tl.static_range(NEAR):
        b_near = _near_bias(b_query, p_table, p_live, n + 1, scale, o_d, buckets, D, CONTEXTUAL)
        tl.store(p_bias + n * rows + o_row, b_near - b_far, mask=m_row)
    return b_far


@triton.jit
def _add_bias(b_s, b_index, p_bias, o_row, m_row, rows, NEAR: tl.constexpr, ALONG: tl.constexpr):
    """b_s + the near bias of each score; rows lie along axis 1 - ALONG of b_s."""
    for n in tl.static_range(NEAR):
        b_near = tl.load(p_bias + n * rows + o_row, mask=m_row, other=0.0)
        b_s += tl.where(b_index == n + 1, tl.expand_dims(b_near, ALONG), 0.0)
    return b_s


# ---------------------------------------------------------------- which blocks are far throughout


@triton.jit
def block_kernel(
    p_index,  # (S, S) uint8
    p_query_position,  # (Lq,)
    p_key_position,  # (Lk,)
    p_mixed,  # (query blocks, key blocks) int8
    positions,
    queries,
    keys,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Marks blocks that hold a near bucket or the end of the keys."""
    o_q = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    o_k = tl.program_id(1) * KEYS + tl.arange(0, KEYS)
    b_q = tl.load(p_query_position + o_q, mask=o_q < queries, other=0).to(tl.int64)
    b_k = tl.load(p_key_position + o_k, mask=o_k < keys, other=0)
    m = (o_q < queries)[:, None] & (o_k < keys)[None, :]
    b_index = tl.load(p_index + b_q[:, None] * positions + b_k[None, :], mask=m, other=0)
    mixed = tl.max(tl.max(b_index.to(tl.int32), 1), 0) > 0
    mixed = mixed | (tl.program_id(1) * KEYS + KEYS > keys)
    tl.store(p_mixed + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), mixed.to(tl.int8))


# ---------------------------------------------------------------- forward


@triton.jit
def _forward_block(
    b_sum, b_top, b_weight, b_q, b_low, b_high, o_q, m_q, o_row, block, rows, keys, positions, scale,
    p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias, key_stride, value_stride, drop_below,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr, MIXED: tl.constexpr,
    VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o_k = block * KEYS + tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    m_k = o_k < keys
    b_k = _rows_of(p_key, o_k, o_d, key_stride, m_k, D)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * 1.4426950408889634)
    if MIXED:
        b_at = tl.load(p_query_position + o_q, mask=m_q, other=0).to(tl.int64)[:, None] * positions
        b_at += tl.load(p_key_position + o_k, mask=m_k, other=0)[None, :]
        b_index = tl.load(p_index + b_at)
        b_s = _add_bias(b_s, b_index, p_bias, o_row, m_q, rows, NEAR, 1)
    if VALID:
        m_k = m_k & (tl.load(p_valid + o_k, mask=m_k, other=0) != 0)
    if VALID or MIXED:
        b_s = tl.where(m_k[None, :], b_s, float("-inf"))
    b_now = tl.maximum(b_top, tl.max(b_s, 1))
    b_p = tl.exp2(b_s - b_now[:, None])
    b_factor = tl.exp2(b_top - b_now)
    b_weight = b_weight * b_factor + tl.sum(b_p, 1)
    if DROPOUT:
        b_p = tl.where(_keep(b_low[:, None], b_high[:, None], o_k[None, :], drop_below), b_p, 0.0)
    b_v = _rows_of(p_value, o_k, o_d, value_stride, o_k < keys, D)
    b_sum = b_sum * b_factor[:, None]
    b_sum = tl.dot(b_p.to(b_v.dtype), b_v, b_sum, input_precision=PRECISION)
    return b_sum, b_now, b_weight


@triton.jit
def forward_kernel(
    p_query, p_key, p_value,  # (B, H, L, D) by strides
    p_table,  # (1|H, D, K) or (1|H, K)
    p_live,  # (1 + NEAR,) far bucket, near buckets
    p_index,  # (S, S) uint8: 0 far, n the n-th near bucket
    p_query_position,  # (Lq,)
    p_key_position,  # (Lk,)
    p_order,  # (query blocks, key blocks) mixed ones first
    p_mixed,  # (query blocks,) number of mixed ones
    p_valid,  # (B, Lk)
    p_seed,  # (1,)
    p_bias,  # (NEAR, B H Lq) work space
    p_output,  # (B, Lq, H, D)
    p_largest, p_weight,  # (B, H, Lq)
    qb, qh, ql, kb, kh, kl, vb, vh, vl,
    heads, queries, keys, positions, buckets, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, VALID: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
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
    b_q = _rows_of(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D)
    b_far = _store_bias(
        p_bias, b_q.to(tl.float32), p_table, p_live, o_row, m_q, rows, scale, o_d, buckets, D, NEAR, CONTEXTUAL
    )
    tl.debug_barrier()  # the program reads its biases back, in another layout
    b_low, b_high = o_q, o_q
    if DROPOUT:
        b_low, b_high = _row_keys(tl.load(p_seed), o_row)

    b_top = tl.full([QUERIES], -1e30, tl.float32)  # finite, so that b_top - b_now is a number
    b_weight = tl.zeros([QUERIES], tl.float32)
    b_sum = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    key_blocks = tl.cdiv(keys, KEYS)
    mixed = tl.load(p_mixed + query_block)
    p_order += query_block * key_blocks
    for t in range(0, mixed):
        b_sum, b_top, b_weight = _forward_block(
            b_sum, b_top, b_weight, b_q, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t), rows, keys,
            positions, scale, p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias, kl, vl,
            drop_below, D, BLOCK_D, KEYS, NEAR, True, VALID, DROPOUT, PRECISION,
        )  # fmt: skip
    for t in range(mixed, key_blocks):
        b_sum, b_top, b_weight = _forward_block(
            b_sum, b_top, b_weight, b_q, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t), rows, keys,
            positions, scale, p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias, kl, vl,
            drop_below, D, BLOCK_D, KEYS, NEAR, False, VALID, DROPOUT, PRECISION,
        )  # fmt: skip

    m_any = b_top > -1e29
    b_output = b_sum * tl.where(m_any, kept / tl.where(m_any, b_weight, 1.0), 0.0)[:, None]
    o_output = ((tile * queries + o_q)[:, None] * heads + head) * D + o_d[None, :]
    tl.store(p_output + o_output, b_output.to(p_output.dtype.element_ty), mask=m_q[:, None] & (o_d < D)[None, :])
    # The far bias rounds when added back; the weight takes up what was lost.
    b_largest = b_top + b_far
    b_part = b_largest - b_top
    b_lost = (b_top - (b_largest - b_part)) + (b_far - b_part)
    tl.store(p_largest + o_row, tl.where(m_any, b_largest, 0.0), mask=m_q)
    tl.store(p_weight + o_row, tl.where(m_any, b_weight * tl.exp2(b_lost), float("inf")), mask=m_q)


# ---------------------------------------------------------------- backward


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
    b_q = _rows_of(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D).to(tl.float32)
    b_far = _store_bias(
        p_rows + 3 * rows, b_q, p_table, p_live, o_row, m_q, rows, scale, o_d, buckets, D, NEAR, CONTEXTUAL
    )
    b_largest = tl.load(p_largest + o_row, mask=m_q, other=0.0)
    b_top = b_largest - b_far
    b_part = b_top - b_largest
    b_lost = (b_largest - (b_top - b_part)) - (b_far + b_part)  # largest - far = top + lost
    b_factor = tl.exp2(-b_lost) / tl.load(p_weight + o_row, mask=m_q, other=1.0)
    b_o = _rows_of(p_output + tile * ob + head * oh, o_q, o_d, ol, m_q, D).to(tl.float32)
    b_do = _rows_of(p_grad_output + tile * gb + head * gh, o_q, o_d, gl, m_q, D).to(tl.float32)
    tl.store(p_rows + o_row, b_top, mask=m_q)
    tl.store(p_rows + rows + o_row, b_factor, mask=m_q)
    tl.store(p_rows + 2 * rows + o_row, tl.sum(b_o * b_do, 1), mask=m_q)


@triton.jit
def _queries_block(
    b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, block, rows, keys, positions,
    scale, p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias, key_stride, value_stride,
    drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr, BLOCK_N: tl.constexpr,
    MIXED: tl.constexpr, VALID: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    o_k = block * KEYS + tl.arange(0, KEYS)
    o_d = tl.arange(0, BLOCK_D)
    m_k = o_k < keys
    b_k = _rows_of(p_key, o_k, o_d, key_stride, m_k, D)
    b_v = _rows_of(p_value, o_k, o_d, value_stride, m_k, D)
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * (scale * 1.4426950408889634)
    b_index = tl.zeros([b_q.shape[0], KEYS], tl.uint8)
    if MIXED:
        b_at = tl.load(p_query_position + o_q, mask=m_q, other=0).to(tl.int64)[:, None] * positions
        b_at += tl.load(p_key_position + o_k, mask=m_k, other=0)[None, :]
        b_index = tl.load(p_index + b_at)
        b_s = _add_bias(b_s, b_index, p_bias, o_row, m_q, rows, NEAR, 1)
    if VALID:
        m_k = m_k & (tl.load(p_valid + o_k, mask=m_k, other=0) != 0)
    b_p = tl.exp2(b_s - b_top[:, None]) * b_factor[:, None]
    if VALID or MIXED:
        b_p = tl.where(m_k[None, :], b_p, 0.0)
    b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
    if DROPOUT:
        b_dp = tl.where(_keep(b_low[:, None], b_high[:, None], o_k[None, :], drop_below), b_dp * kept, 0.0)
    b_ds = b_p * (b_dp - b_delta[:, None])
    b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    if MIXED:
        o_n = tl.arange(0, BLOCK_N)
        for n in tl.static_range(NEAR):
            b_near = tl.sum(tl.where(b_index == n + 1, b_ds, 0.0), 1)
            b_dt += tl.where((o_n == n)[None, :], b_near[:, None], 0.0)
    return b_dq, b_dt


@triton.jit
def queries_kernel(
    p_query, p_key, p_value, p_grad_output, p_table, p_live, p_index, p_query_position, p_key_position,
    p_order, p_mixed, p_valid, p_seed,
    p_rows,  # (3 + NEAR, B H Lq)
    p_grad_query,  # (B, Lq, H, D)
    p_partial,  # (B, H, query blocks, NEAR, D) or (B, H, query blocks, NEAR): shares of the table's gradient
    qb, qh, ql, kb, kh, kl, vb, vh, vl, gb, gh, gl,
    heads, queries, keys, positions, buckets, rows, scale, drop_below, kept,
    D: tl.constexpr, BLOCK_D: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, NEAR: tl.constexpr,
    BLOCK_N: tl.constexpr, CONTEXTUAL: tl.constexpr, SHARED: tl.constexpr, VALID: tl.constexpr,
    DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
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
    b_q = _rows_of(p_query + tile * qb + head * qh, o_q, o_d, ql, m_q, D)
    b_do = _rows_of(p_grad_output + tile * gb + head * gh, o_q, o_d, gl, m_q, D)
    b_top = tl.load(p_rows + o_row, mask=m_q, other=0.0)
    b_factor = tl.load(p_rows + rows + o_row, mask=m_q, other=0.0)
    b_delta = tl.load(p_rows + 2 * rows + o_row, mask=m_q, other=0.0)
    p_bias = p_rows + 3 * rows
    b_low, b_high = o_q, o_q
    if DROPOUT:
        b_low, b_high = _row_keys(tl.load(p_seed), o_row)

    b_dq = tl.zeros([QUERIES, BLOCK_D], tl.float32)
    b_dt = tl.zeros([QUERIES, BLOCK_N], tl.float32)
    key_blocks = tl.cdiv(keys, KEYS)
    mixed = tl.load(p_mixed + query_block)
    p_order += query_block * key_blocks
    for t in range(0, mixed):
        b_dq, b_dt = _queries_block(
            b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t),
            rows, keys, positions, scale, p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias,
            kl, vl, drop_below, kept, D, BLOCK_D, KEYS, NEAR, BLOCK_N, True, VALID, DROPOUT, PRECISION,
        )  # fmt: skip
    for t in range(mixed, key_blocks):
        b_dq, b_dt = _queries_block(
            b_dq, b_dt, b_q, b_do, b_top, b_factor, b_delta, b_low, b_high, o_q, m_q, o_row, tl.load(p_order + t),
            rows, keys, positions, scale, p_key, p_value, p_valid, p_index, p_query_position, p_key_position, p_bias,
            kl, vl, drop_below, kept, D, BLOCK_D, KEYS, NEAR, BLOCK_N, False, VALID, DROPOUT, PRECISION,
        )  # fmt: skip

    b_q = b_q.to(tl.float32)
    o_n = tl.arange(0, BLOCK_N)
    p_partial += tl.program_id(0).to(tl.int64) * NEAR * (D if CONTEXTUAL else 1)
    for n in tl.static_range(NEAR):
        b_near = tl.sum(tl.where((o_n == n)[None, :], b_dt, 0.0), 1)
        if CONTEXTUAL:
            b_entry = tl.load(p_table + o_d * buckets + tl.load(p_live + n + 1), mask=o_d < D, other=0.0)
            b_entry -= tl.load(p_table + o_d * buckets + tl.load(p_live), mask=o_d < D, other=0.0)
            b_dq += b_near[:, None] * b_entry.to(tl.float32)[None, :]
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
    b_q = _rows_of(p_query, o_q, o_d, query_stride, m_q, D)
    b_do = _rows_of(p_grad_output, o_q, o_d, grad_stride, m_q, D)
    b_top = tl.load(p_rows + o_row, mask=m_q, other=0.0)
    b_factor = tl.load(p_rows + rows + o_row, mask=m_q, other=0.0)
    b_delta = tl.load(p_rows + 2 * rows + o_row, mask=m_q, other=0.0)
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * (scale * 1.4426950408889634)  # (keys, queries)
    if MIXED:
        b_at = tl.load(p_query_position + o_q, mask=m_q, other=0).to(tl.int64)[None, :] * positions
        b_at += tl.load(p_key_position + o_k, mask=m_k, other=0)[:, None]
        b_s = _add_bias(b_s, tl.load(p_index + b_at), p_rows + 3 * rows, o_row, m_q, rows, NEAR, 0)
    b_p = tl.exp2(b_s - b_top[None, :]) * b_factor[None, :]
    b_p = tl.where(m_k[:, None], b_p, 0.0)
    b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
    b_kept = b_p
    if DROPOUT:
        b_low, b_high = _row_keys(tl.load(p_seed), o_row)
        m_keep = _keep(b_low[None, :], b_high[None, :], o_k[:, None], drop_below)
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
    b_k = _rows_of(p_key + tile * kb + head * kh, o_k, o_d, kl, m_k, D)
    b_v = _rows_of(p_value + tile * vb + head * vh, o_k, o_d, vl, m_k, D)
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


# ---------------------------------------------------------------- launch


@functools.cache
def _architecture(device: torch.device) -> int:
    if device.type != "cuda":
        return 86  # the interpreter
    major, minor = torch.cuda.get_device_capability(device)
    return 90 if (major, minor) >= (9, 0) else 86


def tile_for(architecture: int, width: int, name: str, dim: int) -> Tile:
    """The tile of pass ``name`` for operands of ``width`` bytes; smaller ones for heads wider than 64."""
    tile = TILES[architecture, width, name]
    most = max(16, 4096 // triton.next_power_of_2(dim))
    return Tile(min(tile.queries, most), min(tile.keys, most), tile.warps, tile.stages)


def _tile(query: Tensor, name: str) -> Tile:
    return tile_for(_architecture(query.device), query.element_size(), name, query.shape[-1])


def _order(layout: Layout, tile: Tile, by_key: bool) -> tuple[Tensor, Tensor]:
    """For each block of queries (or of keys) the blocks of the other, mixed ones first, and their number."""

    def make() -> tuple[Tensor, Tensor]:
        blocks = triton.cdiv(layout.queries, tile.queries), triton.cdiv(layout.keys, tile.keys)
        mixed = torch.empty(blocks, dtype=torch.int8, device=layout.index.device)
        block_kernel[blocks](
            layout.index, layout.query_position, layout.key_position, mixed,
            layout.positions, layout.queries, layout.keys, tile.queries, tile.keys,
        )  # fmt: skip
        mixed = mixed.T if by_key else mixed
        order = mixed.argsort(dim=1, descending=True, stable=True)
        return order.int().contiguous(), mixed.sum(1, dtype=torch.int32)

    return layout.remember(("order", tile.queries, tile.keys, by_key), make)


def _strides(tensor: Tensor) -> tuple[int, int, int]:
    return tensor.stride()[:3]


def _with_unit_stride(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _options(query: Tensor, table: Tensor, layout: Layout, key_valid: Tensor | None, dropout_p: float) -> dict:
    dim = query.shape[-1]
    return {
        "D": dim,
        "BLOCK_D": max(16, triton.next_power_of_2(dim)),
        "NEAR": layout.live.numel() - 1,
        "VALID": key_valid is not None,
        "DROPOUT": dropout_p > 0,
        "PRECISION": _PRECISION,
    }


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bucket: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    key_valid: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (_with_unit_stride(t) for t in (query, key, value))
    batch, heads, queries, _ = query.shape
    output = empty_like_heads(query)
    largest, weight = (query.new_empty(query.shape[:3], dtype=torch.float32) for _ in range(2))
    if output.numel() == 0 or key.shape[2] == 0:
        return output.zero_(), largest.zero_(), weight.fill_(float("inf"))
    layout = Layout.of(bucket, query_position, key_position, queries, key.shape[2], table.shape[-1])
    tile = _tile(query, "forward")
    rows = batch * heads * queries
    bias = query.new_empty((layout.live.numel() - 1, rows), dtype=torch.float32)
    forward_kernel[(triton.cdiv(queries, tile.queries) * batch * heads,)](
        query, key, value, table.contiguous(), layout.live, layout.index, layout.query_position, layout.key_position,
        *_order(layout, tile, by_key=False), query if key_valid is None else key_valid.contiguous().view(torch.uint8),
        query if seed is None else seed, bias, output, largest, weight,
        *_strides(query), *_strides(key), *_strides(value),
        heads, queries, key.shape[2], layout.positions, table.shape[-1], rows, scale, threshold(dropout_p),
        1 / (1 - dropout_p),
        QUERIES=tile.queries, KEYS=tile.keys, CONTEXTUAL=table.dim() == 3, SHARED=table.shape[0] == 1,
        num_warps=tile.warps, num_stages=tile.stages, **_options(query, table, layout, key_valid, dropout_p),
    )  # fmt: skip
    return output, largest, weight


def backward(
    grad_output: Tensor,
    output: Tensor,
    largest: Tensor,
    weight: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor,
    bucket: Tensor,
    query_position: Tensor | None,
    key_position: Tensor | None,
    key_valid: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    query, key, value, grad_output, output = (_with_unit_stride(t) for t in (query, key, value, grad_output, output))
    batch, heads, queries, dim = query.shape
    gradients = [empty_like_heads(t) for t in (query, key, value)]
    if query.numel() == 0 or key.numel() == 0:
        return *(g.zero_() for g in gradients), torch.zeros_like(table)
    layout = Layout.of(bucket, query_position, key_position, queries, key.shape[2], table.shape[-1])
    rows, near = batch * heads * queries, layout.live.numel() - 1
    contextual, table = table.dim() == 3, table.contiguous()
    valid = query if key_valid is None else key_valid.contiguous().view(torch.uint8)
    seed = query if seed is None else seed
    options = _options(query, table, layout, key_valid, dropout_p)
    numbers = queries, key.shape[2], layout.positions
    strides = *_strides(query), *_strides(key), *_strides(value), *_strides(grad_output)
    of_table = {"CONTEXTUAL": contextual, "SHARED": table.shape[0] == 1}

    by_row = query.new_empty((3 + near, rows), dtype=torch.float32)
    rows_kernel[(triton.cdiv(queries, _ROWS) * batch * heads,)](
        query, output, grad_output, table, layout.live, largest.contiguous(), weight.contiguous(), by_row,
        *_strides(query), *_strides(output), *_strides(grad_output), heads, queries, table.shape[-1], rows, scale,
        QUERIES=_ROWS, **of_table, **{name: options[name] for name in ("D", "BLOCK_D", "NEAR")},
    )  # fmt: skip

    tile = _tile(query, "queries")
    blocks = triton.cdiv(queries, tile.queries)
    partial = query.new_empty((batch, heads, blocks, near, *((dim,) if contextual else ())), dtype=torch.float32)
    queries_kernel[(blocks * batch * heads,)](
        query, key, value, grad_output, table, layout.live, layout.index, layout.query_position, layout.key_position,
        *_order(layout, tile, by_key=False), valid, seed, by_row, gradients[0], partial,
        *strides, heads, *numbers, table.shape[-1], rows, scale, threshold(dropout_p), 1 / (1 - dropout_p),
        QUERIES=tile.queries, KEYS=tile.keys, BLOCK_N=triton.next_power_of_2(max(near, 1)), **of_table,
        num_warps=tile.warps, num_stages=tile.stages, **options,
    )  # fmt: skip

    tile = _tile(query, "keys")
    keys_kernel[(triton.cdiv(key.shape[2], tile.keys) * batch * heads,)](
        query, key, value, grad_output, layout.index, layout.query_position, layout.key_position,
        *_order(layout, tile, by_key=True), valid, seed, by_row, gradients[1], gradients[2],
        *strides, heads, *numbers, rows, scale, threshold(dropout_p), 1 / (1 - dropout_p),
        QUERIES=tile.queries, KEYS=tile.keys, num_warps=tile.warps, num_stages=tile.stages, **options,
    )  # fmt: skip
    return *gradients, _grad_table(partial, table, layout.live)


def _grad_table(partial: Tensor, table: Tensor, live: Tensor) -> Tensor:
    """Adds up the shares of the near buckets in a fixed order; the far bucket's gradient is minus their sum."""
    near = partial.sum((0, 1, 2) if table.shape[0] == 1 else (0, 2), dtype=torch.float32)
    near = near.reshape(table.shape[0], partial.shape[3], *table.shape[1:-1]).movedim(1, -1)  # (1|H, [D], NEAR)
    gradient = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    gradient.index_copy_(-1, live.long(), torch.cat([-near.sum(-1, keepdim=True), near], -1))
    return gradient.to(table.dtype)
