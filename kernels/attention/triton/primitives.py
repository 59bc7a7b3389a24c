"""What the attention kernels share: rows, buckets and their biases, the dropout mask, far and mixed blocks."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E


@triton.jit
def row_keys(seed, o_row):
    """64 key bits of each row, as two uint32 (dropout.py)."""
    z = seed.to(tl.uint64) + (o_row + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z = z ^ (z >> 31)
    return (z & 0xFFFFFFFF).to(tl.uint32), (z >> 32).to(tl.uint32)


@triton.jit
def keep(b_low, b_high, o_k, drop_below):
    """Which weights are kept; the operands broadcast against each other."""
    x = o_k.to(tl.uint32) * 0x9E3779B9 + b_low
    x = (x ^ (x >> 16)) * 0x21F0AAAD + b_high
    x = (x ^ (x >> 15)) * 0x735A2D97
    x = x ^ (x >> 15)
    return (x >> 1).to(tl.int32) >= drop_below


@triton.jit
def load_rows(p, o_l, o_d, stride, m_l, D: tl.constexpr):
    """Rows o_l of a (L, D) matrix, zeros beyond its edges."""
    m = m_l[:, None] & (o_d < D)[None, :]
    return tl.load(p + o_l.to(tl.int64)[:, None] * stride + o_d[None, :], mask=m, other=0.0)


@triton.jit
def pair_places(
    p_index, p_query_place, p_key_place, o_q, m_q, o_k, m_k, positions, EUCLIDEAN: tl.constexpr, ALONG: tl.constexpr
):  # fmt: skip
    """What tells a pair's bucket: its squared distance (EUCLIDEAN >= 0), else its index: 0 far, n the n-th near one.

    Keys lie along axis ALONG. The distance takes four instructions and no load, so scores keep the layout that the
    product gave them; a look-up spends registers and, where rows are reduced, shuffles on the load's layout.
    """
    b_q = tl.load(p_query_place + o_q, mask=m_q, other=0)
    b_k = tl.load(p_key_place + o_k, mask=m_k, other=0)
    if EUCLIDEAN < 0:
        return tl.load(p_index + tl.expand_dims(b_q * positions, ALONG) + tl.expand_dims(b_k, 1 - ALONG))
    else:
        b_rows = tl.expand_dims((b_q >> 16).to(tl.float32), ALONG)
        b_rows -= tl.expand_dims((b_k >> 16).to(tl.float32), 1 - ALONG)
        b_columns = tl.expand_dims((b_q & 0xFFFF).to(tl.float32), ALONG)
        b_columns -= tl.expand_dims((b_k & 0xFFFF).to(tl.float32), 1 - ALONG)
        return b_rows * b_rows + b_columns * b_columns


@triton.jit
def _from(b_place, k: tl.constexpr):
    """Whether squared distances are those of euclidean.BUCKETS[k] or larger, 0 < k."""
    return b_place >= (1.0 if k == 1 else 3.0 if k == 2 else 13.0 if k == 3 else 67108864.0)


@triton.jit
def select_bias(b_bias, b_place, b_near, n: tl.constexpr, EUCLIDEAN: tl.constexpr):
    """b_bias with b_near where a pair is in near bucket n; for n = 0, 1, ... in turn, from zeros."""
    if EUCLIDEAN < 0:
        b_bias = tl.where(b_place == n + 1, b_near, b_bias)
    else:  # one comparison a bucket: a larger distance replaces what smaller ones said
        k: tl.constexpr = n if n < EUCLIDEAN else n + 1
        if k == 0:
            b_bias += b_near
        else:
            b_bias = tl.where(_from(b_place, k), b_near, b_bias)
        if k + 1 == EUCLIDEAN:
            b_bias = tl.where(_from(b_place, k + 1), 0.0, b_bias)
    return b_bias


@triton.jit
def where_near(b_x, b_place, n: tl.constexpr, NEAR: tl.constexpr, EUCLIDEAN: tl.constexpr):
    """b_x where a pair is in near bucket n, else 0."""
    if EUCLIDEAN < 0:
        b_x = tl.where(b_place == n + 1, b_x, 0.0)
    else:
        k: tl.constexpr = n if n < EUCLIDEAN else n + 1
        if k < NEAR:
            b_x = tl.where(_from(b_place, k + 1), 0.0, b_x)
        if k > 0:
            b_x = tl.where(_from(b_place, k), b_x, 0.0)
    return b_x


@triton.jit
def _live_bias(b_query, p_table, p_live, n, scale, o_d, buckets, D: tl.constexpr, CONTEXTUAL: tl.constexpr):
    """Bias of live bucket n (0 is far) for each row, in units of ln 2."""
    k = tl.load(p_live + n)
    if CONTEXTUAL:
        b_entry = tl.load(p_table + o_d * buckets + k, mask=o_d < D, other=0.0).to(tl.float32)
        b_bias = tl.sum(b_query * b_entry[None, :], 1) * (scale * LOG2_E)
    else:
        b_bias = tl.zeros([b_query.shape[0]], tl.float32) + tl.load(p_table + k).to(tl.float32) * LOG2_E
    return b_bias


@triton.jit
def store_bias(
    p_bias, b_query, p_table, p_live, o_row, m_row, rows, scale, o_d, buckets,
    D: tl.constexpr, NEAR: tl.constexpr, CONTEXTUAL: tl.constexpr,
):  # fmt: skip
    """p_bias (NEAR, rows) = near biases less the far bias, which is returned."""
    b_far = _live_bias(b_query, p_table, p_live, 0, scale, o_d, buckets, D, CONTEXTUAL)
    for n in tl.static_range(NEAR):
        b_near = _live_bias(b_query, p_table, p_live, n + 1, scale, o_d, buckets, D, CONTEXTUAL)
        tl.store(p_bias + n * rows + o_row, b_near - b_far, mask=m_row)
    return b_far


@triton.jit
def stored_bias(
    b_place, p_bias, o_row, m_row, rows, NEAR: tl.constexpr, EUCLIDEAN: tl.constexpr, ALONG: tl.constexpr
):  # fmt: skip
    """The bias of each score less its row's far bias, from store_bias; keys lie along axis ALONG."""
    b_bias = tl.zeros(b_place.shape, tl.float32)
    for n in tl.static_range(NEAR):
        b_near = tl.load(p_bias + n * rows + o_row, mask=m_row, other=0.0)
        b_bias = select_bias(b_bias, b_place, tl.expand_dims(b_near, ALONG), n, EUCLIDEAN)
    return b_bias


@triton.jit
def entry(p_table, p_live, n, o_d, buckets, D: tl.constexpr):
    """Column of a contextual table for near bucket n, less that of the far one: (D,) float32."""
    b_far = tl.load(p_table + o_d * buckets + tl.load(p_live), mask=o_d < D, other=0.0)
    b_near = tl.load(p_table + o_d * buckets + tl.load(p_live + n + 1), mask=o_d < D, other=0.0)
    return b_near.to(tl.float32) - b_far.to(tl.float32)


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
