"""What the attention kernels share: rows, buckets and their biases, the dropout mask, kinds of blocks."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E

# Kinds of (query block, key block) pairs.
FAR = tl.constexpr(0)  # all pairs are in their row's far bucket
MIXED = tl.constexpr(1)  # some are in near ones
EDGE = tl.constexpr(2)  # besides, the walked side ends, or some keys are at extra positions (class tokens)


@triton.jit
def run_of(KIND: tl.constexpr, edges, mixed, blocks):
    """First and last + 1 of the blocks of one kind in a program's order: edges, mixed ones, far ones."""
    if KIND == EDGE:
        return 0, edges
    elif KIND == MIXED:
        return edges, mixed
    else:
        return mixed, blocks


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
def load_block(p, block, o_l, o_d, stride, m_l, D: tl.constexpr, MASKED: tl.constexpr):
    """Rows o_l of block ``block`` of a (L, D) matrix, zeros beyond its edges; inside, masks only cost instructions."""
    p += (block * o_l.shape[0]).to(tl.int64) * stride
    p_rows = p + o_l.to(tl.int64)[:, None] * stride + o_d[None, :]
    if MASKED:
        return tl.load(p_rows, mask=m_l[:, None] & (o_d < D)[None, :], other=0.0)
    elif o_d.shape[0] > D:
        return tl.load(p_rows, mask=(o_d < D)[None, :], other=0.0)
    else:
        return tl.load(p_rows)


@triton.jit
def load_vector(p, o_l, m_l, MASKED: tl.constexpr):
    """Entries o_l of a vector, zeros beyond its end."""
    if MASKED:
        return tl.load(p + o_l, mask=m_l, other=0)
    else:
        return tl.load(p + o_l)


@triton.jit
def load_places(p_place, o_l, m_l, MASKED: tl.constexpr, EUCLIDEAN: tl.constexpr):
    """What buckets of tokens o_l follow from: positions (L,), or coordinates (L, 16) of euclidean.coordinates."""
    if EUCLIDEAN < 0:
        return load_vector(p_place, o_l, m_l, MASKED)
    else:
        p_rows = p_place + o_l[:, None] * 16 + tl.arange(0, 16)[None, :]
        if MASKED:
            return tl.load(p_rows, mask=m_l[:, None], other=0.0)
        else:
            return tl.load(p_rows)


@triton.jit
def pair_places(p_index, b_q, b_k, positions, EUCLIDEAN: tl.constexpr, ALONG: tl.constexpr):
    """What tells a pair's bucket: its squared distance (EUCLIDEAN >= 0), else its index: 0 far, n the n-th near one.

    Keys lie along axis ALONG. The squared distance is a product of coordinates: on tensor cores it costs a quarter of
    an instruction a pair, and comes in the layout of the scores.
    """
    if EUCLIDEAN < 0:
        return tl.load(p_index + tl.expand_dims(b_q * positions, ALONG) + tl.expand_dims(b_k, 1 - ALONG))
    elif ALONG == 1:
        return tl.dot(b_q, tl.trans(b_k))
    else:
        return tl.dot(b_k, tl.trans(b_q))


@triton.jit
def bound(k: tl.constexpr):
    """The squared distance from which on a pair is in euclidean.BUCKETS[k] or a later one, 0 < k."""
    return 1.0 if k == 1 else 3.0 if k == 2 else 13.0 if k == 3 else 8388608.0  # 2^23


@triton.jit
def near_biases(p_bias, o_row, m_row, rows, MASKED: tl.constexpr, EUCLIDEAN: tl.constexpr):
    """The four near biases of each row in closed form; look-ups, of any number, load theirs when they need them."""
    if EUCLIDEAN < 0:
        return o_row, o_row, o_row, o_row
    else:
        b_0 = load_vector(p_bias, o_row, m_row, MASKED)
        b_1 = load_vector(p_bias + rows, o_row, m_row, MASKED)
        b_2 = load_vector(p_bias + 2 * rows, o_row, m_row, MASKED)
        b_3 = load_vector(p_bias + 3 * rows, o_row, m_row, MASKED)
        return b_0, b_1, b_2, b_3


@triton.jit
def pair_bias(
    b_place, b_0, b_1, b_2, b_3, p_bias, o_row, m_row, rows,
    NEAR: tl.constexpr, KIND: tl.constexpr, EUCLIDEAN: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    """The bias of each pair less its row's far one, from p_bias (NEAR, rows); keys lie along axis ALONG.

    In closed form one comparison a bucket: going away from the far one, upwards and downwards, a distance replaces
    what was said before. Extra keys occur at edges only.
    """
    b_bias = tl.zeros(b_place.shape, tl.float32)
    if EUCLIDEAN < 0:
        for n in tl.static_range(NEAR):
            b_near = load_vector(p_bias + n * rows, o_row, m_row, True)
            b_bias = tl.where(b_place == n + 1, tl.expand_dims(b_near, ALONG), b_bias)
    else:
        for i in tl.static_range(4):
            b_bias = _replace(
                b_bias, b_place, b_0, b_1, b_2, b_3, EUCLIDEAN - 1 - i if i < EUCLIDEAN else i, KIND, EUCLIDEAN, ALONG
            )
    return b_bias


@triton.jit
def _replace(
    b_bias, b_place, b_0, b_1, b_2, b_3,
    n: tl.constexpr, KIND: tl.constexpr, EUCLIDEAN: tl.constexpr, ALONG: tl.constexpr,
):  # fmt: skip
    if n < 3 or KIND == EDGE:
        b_near = tl.expand_dims(b_0 if n == 0 else b_1 if n == 1 else b_2 if n == 2 else b_3, ALONG)
        b_bias = tl.where(beyond(b_place, n, EUCLIDEAN, 0.0), b_near, b_bias)
    return b_bias


@triton.jit
def beyond(b_place, n: tl.constexpr, EUCLIDEAN: tl.constexpr, LESS: tl.constexpr):
    """Whether a pair is in near bucket n, or in closed form in that one or one still further from the far bucket.

    Distances being whole, bounds may be LESS, below 1, smaller. Another LESS makes the compiler compare again, where it
    would otherwise keep a bit for every pair and bucket, which costs three times as much.
    """
    if EUCLIDEAN < 0:
        return b_place == n + 1
    elif n < EUCLIDEAN:
        return b_place < bound(n + 1) - LESS
    else:
        return b_place >= bound(n + 1) - LESS


@triton.jit
def at_extra(p_place, o_l, m_l, EUCLIDEAN: tl.constexpr):
    """Which tokens are at extra positions, all of whose pairs are in one bucket."""
    if EUCLIDEAN < 0:
        return m_l & (o_l < 0)
    else:
        return tl.load(p_place + o_l * 16 + 6, mask=m_l, other=0.0) != 0.0


@triton.jit
def column(b_x, o_n, n):
    """Column n of b_x, zeros where there is none."""
    return tl.sum(tl.where((o_n == n)[None, :], b_x, 0.0), 1)


@triton.jit
def add_product(b_sum, b_a, b_b, scale, PRECISION: tl.constexpr):
    """b_sum + a b, of one block of those that a program walks through.

    A float32 ``tl.dot`` adds its terms to what it starts from, one by one, and so would round once a token at the size
    of the sum of all. It starts from a zero here that the compiler does not know for one, 0 scale: it makes one
    product of dot(a, b) + c again.
    """
    if b_a.dtype == tl.float32:
        b_sum += tl.dot(b_a, b_b, tl.zeros(b_sum.shape, tl.float32) + scale * 0.0, input_precision=PRECISION)
    else:
        b_sum = tl.dot(b_a, b_b, b_sum, input_precision=PRECISION)
    return b_sum


@triton.jit
def _live_bias(b_query, b_all, p_table, p_live, n, scale, o_d, o_n, buckets, D: tl.constexpr, CONTEXTUAL: tl.constexpr):
    """Bias of live bucket n (0 is far) for each row, in units of ln 2; b_all are those of all in float32."""
    if CONTEXTUAL and b_query.dtype == tl.float32:
        return column(b_all, o_n, n)
    k = tl.load(p_live + n)
    if CONTEXTUAL:
        b_entry = tl.load(p_table + o_d * buckets + k, mask=o_d < D, other=0.0).to(tl.float32)
        b_bias = tl.sum(b_query.to(tl.float32) * b_entry[None, :], 1) * (scale * LOG2_E)
    else:
        b_bias = tl.zeros([b_query.shape[0]], tl.float32) + tl.load(p_table + k).to(tl.float32) * LOG2_E
    return b_bias


@triton.jit
def store_bias(
    p_bias, b_query, m_extra, p_table, p_live, o_row, m_row, rows, scale, o_d, buckets,
    D: tl.constexpr, NEAR: tl.constexpr, BLOCK_L: tl.constexpr, CONTEXTUAL: tl.constexpr,
):  # fmt: skip
    """p_bias (NEAR, rows) = near biases less the far bias, which is returned; there are up to BLOCK_L of them in all.

    A query at an extra position has all keys in the last bucket (m_extra): for its row that is the far one.

    Backward works biases out anew, and large ones must be forward's to the last bit: a unit in the last place of 100
    is 5e-6 of a weight. The order of a sum is the compiler's, another one in another kernel, and so is whether a
    product is rounded before it is added to. A float32 ``tl.dot`` adds its terms in their order by fused
    multiply-adds, and nothing is multiplied after it.
    """
    o_n = tl.arange(0, BLOCK_L)
    b_all = b_query
    if CONTEXTUAL and b_query.dtype == tl.float32:
        b_live = tl.load(p_live + o_n, mask=o_n <= NEAR, other=0)
        b_entries = tl.load(
            p_table + o_d[:, None] * buckets + b_live[None, :],
            mask=(o_d < D)[:, None] & (o_n <= NEAR)[None, :], other=0.0,
        )  # fmt: skip
        b_all = tl.dot(b_query * (scale * LOG2_E), b_entries.to(tl.float32), input_precision="ieee")
    b_far = _live_bias(b_query, b_all, p_table, p_live, 0, scale, o_d, o_n, buckets, D, CONTEXTUAL)
    b_near = b_far
    for n in tl.static_range(NEAR):
        b_near = _live_bias(b_query, b_all, p_table, p_live, n + 1, scale, o_d, o_n, buckets, D, CONTEXTUAL)
        tl.store(p_bias + n * rows + o_row, tl.where(m_extra, 0.0, b_near - b_far), mask=m_row)
    return tl.where(m_extra, b_near, b_far)


@triton.jit
def entry(p_table, p_live, n, o_d, buckets, D: tl.constexpr):
    """Column of a contextual table for near bucket n, less that of the far one: (D,) float32."""
    b_far = tl.load(p_table + o_d * buckets + tl.load(p_live), mask=o_d < D, other=0.0)
    b_near = tl.load(p_table + o_d * buckets + tl.load(p_live + n + 1), mask=o_d < D, other=0.0)
    return b_near.to(tl.float32) - b_far.to(tl.float32)
