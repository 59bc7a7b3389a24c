"""Which (query block, key block) pairs need biases and masks, and in which order a program walks through them."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import EDGE


@triton.jit
def kinds_kernel(
    p_index,  # (S, S) uint8
    p_query_position,  # (Lq,)
    p_key_position,  # (Lk,)
    p_kinds,  # (own blocks, walked blocks) int8: FAR, MIXED or EDGE
    positions, extra, queries, keys,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, BY_KEY: tl.constexpr,
):  # fmt: skip
    """The kind of one pair of blocks; BY_KEY: programs own keys and walk through queries.

    Reads a bucket, 1 byte, a pair of tokens, and writes 1 byte a pair of blocks; done once for a table and positions.
    """
    own, walked = tl.program_id(0), tl.program_id(1)
    query_block, key_block = own, walked
    if BY_KEY:
        query_block, key_block = walked, own
    o_q = query_block * QUERIES + tl.arange(0, QUERIES)
    o_k = key_block * KEYS + tl.arange(0, KEYS)
    b_q = tl.load(p_query_position + o_q, mask=o_q < queries, other=0)
    b_k = tl.load(p_key_position + o_k, mask=o_k < keys, other=0)
    # A query at an extra position is in one bucket with all keys, which is far for its row.
    m = (o_q < queries)[:, None] & (o_k < keys)[None, :] & (b_q >= extra)[:, None]
    b_index = tl.load(p_index + b_q.to(tl.int64)[:, None] * positions + b_k[None, :], mask=m, other=0)
    kind = (tl.max(tl.max(b_index.to(tl.int32), 1), 0) > 0).to(tl.int32)
    edge = query_block * QUERIES + QUERIES > queries if BY_KEY else key_block * KEYS + KEYS > keys
    extras = tl.max(((b_k < extra) & (o_k < keys)).to(tl.int32), 0) > 0
    kind = tl.where(edge | extras, EDGE, kind)
    tl.store(p_kinds + own * tl.num_programs(1) + walked, kind.to(tl.int8))


@triton.jit
def order_kernel(
    p_kinds,  # (own blocks, walked blocks) int8
    p_order,  # (own blocks, walked blocks) int32
    p_counts,  # (own blocks, 2) int32
    walked,
    WALKED: tl.constexpr,  # power of two, at least ``walked``
):
    """Sorts one program's blocks by kind, edges first and each kind as it was, and counts edges and edges + mixed.

    5 bytes a pair of blocks; done once for a table and positions.
    """
    o = tl.arange(0, WALKED)
    m = o < walked
    b_kind = tl.load(p_kinds + tl.program_id(0) * walked + o, mask=m, other=-1).to(tl.int32)
    start = 0
    b_rank = o
    for i in tl.static_range(3):
        m_kind = b_kind == 2 - i
        if i > 0:
            tl.store(p_counts + 2 * tl.program_id(0) + i - 1, start)
        b_rank = tl.where(m_kind, start + tl.cumsum(m_kind.to(tl.int32), 0) - 1, b_rank)
        start += tl.sum(m_kind.to(tl.int32), 0)
    tl.store(p_order + tl.program_id(0) * walked + b_rank, o, mask=m)
