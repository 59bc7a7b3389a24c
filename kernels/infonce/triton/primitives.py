"""What the kernels of patch InfoNCE share: temperature, rows, positives, edges of blocks, products of directions."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E, constant

# From this temperature up e^(s - 1 / temperature) of cosines is at least e^-64: one shift serves all rows.
COLDEST_NUMBER = 0.03125
COLDEST = constant(COLDEST_NUMBER)


@triton.jit
def temperature_of(p_temperature, temperature, LEARNED: tl.constexpr):
    """The temperature: a tensor's where it is LEARNED, else the number that came with the launch."""
    if LEARNED:
        temperature = tl.load(p_temperature).to(tl.float32)
    return temperature


@triton.jit
def one_shift(temperature, NORMALIZE: tl.constexpr):
    """Whether one shift, the greatest similarity there can be, serves all rows; else each needs its own maximum."""
    return (temperature >= COLDEST) & NORMALIZE


@triton.jit
def program_rows(p_anchor, rows, ANCHORED: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows of the output, which of them exist, and their tokens."""
    o_out = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_r = o_out < rows
    if ANCHORED:
        o_r = tl.load(p_anchor + o_out, mask=m_r, other=0).to(tl.int32)
    else:
        o_r = tl.minimum(o_out, rows - 1)  # a neighbour's row again, not stored
    return o_out, m_r, o_r


@triton.jit
def positive(o_r, o_j, b_kind, m_r, p_modality):
    """Which of tokens o_j are positives of rows o_r, whose modality is b_kind."""
    b_other = tl.load(p_modality + o_j, mask=m_r, other=-1)
    return m_r & (o_j != o_r) & (b_other >= 0) & (b_kind >= 0) & (b_other != b_kind)


@triton.jit
def weights(b_s, b_row, b_column, b_row_log_z, b_column_log_z, b_shift, FIXED: tl.constexpr):
    """w_i e^s / Z_i + w_j e^s / Z_j; with one shift, b_row and b_column hold w e^(1 / temperature) / Z."""
    if FIXED:
        b_w = tl.exp2(b_s + b_shift) * (b_row + b_column)
    else:
        b_s += b_shift  # 0 or -inf
        b_w = b_row * tl.exp2(b_s - b_row_log_z) + b_column * tl.exp2(b_s - b_column_log_z)
    return b_w


@triton.jit
def row_weights(b_grad, b_log_z, temperature, fixed):
    """What ``weights`` takes for a row or a column, from its gradient and log2 Z."""
    return tl.where(fixed, tl.exp2(LOG2_E / temperature - b_log_z), 1.0) * b_grad


@triton.jit
def block_edges(p_block, p_edges, i, tokens, ROWS: tl.constexpr):
    """p_edges (row blocks, 4) of row block i: columns low .. high - 1 hold the blocks of these rows.

    Columns inside .. outside - 1 of them are excluded for every row: all of them where the rows are of one block, else
    none. Found by bisection, since block numbers never decrease.
    """
    first = tl.load(p_block + i * ROWS)
    last = tl.load(p_block + tl.minimum(i * ROWS + ROWS, tokens) - 1)
    o_e = tl.arange(0, 2)
    b_sought = tl.where(o_e == 0, first, last + 1)
    b_low = tl.zeros([2], tl.int32)
    b_high = b_low + tokens
    while tl.max(b_high - b_low, 0) > 0:
        m_open = b_low < b_high
        b_middle = (b_low + b_high) // 2
        m_below = tl.load(p_block + b_middle, mask=m_open, other=0) < b_sought
        b_low = tl.where(m_open & m_below, b_middle + 1, b_low)
        b_high = tl.where(m_open & ~m_below, b_middle, b_high)
    low, high = tl.sum(tl.where(o_e == 0, b_low, 0), 0), tl.sum(tl.where(o_e == 1, b_low, 0), 0)
    p_edges += 4 * i
    tl.store(p_edges, low)
    tl.store(p_edges + 1, high)
    tl.store(p_edges + 2, tl.where(first == last, low, high))
    tl.store(p_edges + 3, high)


@triton.jit
def features(p_high, p_low, o_r, d, STRIDE: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr):
    """Features d .. d + CHUNK of tokens o_r, (tokens, CHUNK), and their low parts."""
    o_x = o_r.to(tl.int64)[:, None] * STRIDE + d + tl.arange(0, CHUNK)[None, :]
    b_high = tl.load(p_high + o_x)
    b_low = b_high
    if SPLIT:
        b_low = tl.load(p_low + o_x)
    return b_high, b_low


@triton.jit
def all_features(p_high, p_low, o_r, STRIDE: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr):
    """All features of tokens o_r, a tuple of chunks, and their low parts."""
    b_high, b_low = (), ()
    for d in tl.static_range(0, STRIDE, CHUNK):
        b_one, b_two = features(p_high, p_low, o_r, d, STRIDE, CHUNK, SPLIT)
        b_high, b_low = b_high + (b_one,), b_low + (b_two,)  # noqa: RUF005  (the compiler knows no unpacking)
    return b_high, b_low


@triton.jit
def _add_product(b_s, b_rest, b_q, b_q_low, b_k, b_k_low, SPLIT: tl.constexpr):
    """Adds one chunk's products: SPLIT, those of whole numbers to b_s, which stays exact, and the others to b_rest."""
    if SPLIT:
        b_rest = tl.dot(b_q_low, tl.trans(b_k_low), b_rest)
        b_rest = tl.dot(b_q_low, tl.trans(b_k), b_rest)
        b_rest = tl.dot(b_q, tl.trans(b_k_low), b_rest)
    b_s = tl.dot(b_q, tl.trans(b_k), b_s, input_precision="ieee")
    return b_s, b_rest


@triton.jit
def similarities(
    b_q, b_q_low, b_k, b_k_low, o_r, o_n, p_high, p_low,
    STRIDE: tl.constexpr, CHUNK: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """f_r . f_n in the units of both, (rows, columns).

    Rows and columns come as tuples of chunks, or (WIDE) are read here chunk by chunk.
    """
    b_s = tl.zeros([o_r.shape[0], o_n.shape[0]], tl.float32)
    b_rest = b_s
    if WIDE:
        for d in range(0, STRIDE, CHUNK):
            b_one, b_one_low = features(p_high, p_low, o_r, d, STRIDE, CHUNK, SPLIT)
            b_two, b_two_low = features(p_high, p_low, o_n, d, STRIDE, CHUNK, SPLIT)
            b_s, b_rest = _add_product(b_s, b_rest, b_one, b_one_low, b_two, b_two_low, SPLIT)
    else:
        for c in tl.static_range(STRIDE // CHUNK):
            b_s, b_rest = _add_product(b_s, b_rest, b_q[c], b_q_low[c], b_k[c], b_k_low[c], SPLIT)
    if SPLIT:
        b_s += b_rest
    return b_s


@triton.jit
def row_factor(p_unit, o_r, temperature, SPLIT: tl.constexpr):
    """What similarities of rows o_r are multiplied with for logits in units of ln 2; see ``logits``."""
    b_factor = tl.zeros([o_r.shape[0]], tl.float32) + LOG2_E / temperature
    if SPLIT:
        b_factor *= tl.load(p_unit + o_r)
    return b_factor


@triton.jit
def logits(b_s, b_factor, p_unit, o_n, SPLIT: tl.constexpr):
    """Similarities over the temperature, times log2 e."""
    if SPLIT:
        b_s *= tl.load(p_unit + o_n)[None, :]
    return scaled(b_s, b_factor[:, None], SPLIT)


@triton.jit
def scaled(b_x, b_factor, SPLIT: tl.constexpr):
    """b_x b_factor, where SPLIT rounded whatever follows.

    A compiler would else join the product to a sum behind it, in one kernel and not in another, and what one has added
    the other would take back half a unit in the last place too much.
    """
    if SPLIT:
        b_product = tl.fma(b_x, tl.zeros(b_x.shape, tl.float32) + b_factor, tl.zeros(b_x.shape, tl.float32))
    else:
        b_product = b_x * b_factor
    return b_product
