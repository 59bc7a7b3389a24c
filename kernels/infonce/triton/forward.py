"""The sums over the denominators: tiles of the similarity matrix, every program owning a block of rows."""

from __future__ import annotations

import triton
import triton.language as tl

from .primitives import (
    all_features,
    logits,
    one_shift,
    positive,
    program_rows,
    row_factor,
    similarities,
    temperature_of,
)


@triton.jit
def plan(p_edges, split, splits, columns, ANCHORED: tl.constexpr, COLUMNS: tl.constexpr):
    """Column tiles of this program: those to compare labels in, then those without excluded columns.

    Two runs each, as (first tile, tiles) of the first run and first tile of the second.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    begin = tiles * split // splits
    end = tiles * (split + 1) // splits
    if ANCHORED:  # rows in any order: compare everywhere
        edge, inside, outside, after = begin, end, end, end
    else:
        p_edge = p_edges + 4 * tl.program_id(0)
        edge = tl.minimum(tl.maximum(tl.load(p_edge) // COLUMNS, begin), end)
        after = tl.minimum(tl.maximum(tl.cdiv(tl.load(p_edge + 1), COLUMNS), edge), end)
        inside = tl.minimum(tl.maximum(tl.cdiv(tl.load(p_edge + 2), COLUMNS), edge), after)
        outside = tl.minimum(tl.maximum(tl.load(p_edge + 3) // COLUMNS, inside), after)
    return begin, edge, inside, outside, after, end


@triton.jit
def walk(t, first, count, second):
    """The t-th of a run of ``count`` that starts at ``first`` and goes on at ``second``."""
    return tl.where(t < count, first + t, second + t - count)


@triton.jit
def _tile(
    b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r, tile, b_factor, columns,
    p_high, p_low, p_unit, p_shift, p_block, p_ring, p_modality,
    STRIDE: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr, FIXED: tl.constexpr, SPLIT: tl.constexpr,
    WIDE: tl.constexpr, COMPARE: tl.constexpr, ACCURACY: tl.constexpr,
):  # fmt: skip
    o_n = tile * COLUMNS + tl.arange(0, COLUMNS)
    b_k, b_k_low = b_q, b_q_low
    if not WIDE:
        b_k, b_k_low = all_features(p_high, p_low, o_n, STRIDE, CHUNK, SPLIT)
    b_s = similarities(b_q, b_q_low, b_k, b_k_low, o_r, o_n, p_high, p_low, STRIDE, CHUNK, SPLIT, WIDE)
    b_s = logits(b_s, b_factor, p_unit, o_n, SPLIT) + tl.load(p_shift + o_n)[None, :]
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < columns, other=-1)
        b_s = tl.where(b_block[:, None] == b_other[None, :], float("-inf"), b_s)
    if ACCURACY:
        b_n = b_s
        o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
        while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
            m_p = positive(o_r, o_j, b_kind, m_r, p_modality)
            b_n = tl.where(m_p[:, None] & (o_j[:, None] == o_n[None, :]), float("-inf"), b_n)
            o_j = tl.where(o_j == o_r, o_j, tl.load(p_ring + o_j, mask=m_r, other=0))
        b_rival = tl.maximum(b_rival, tl.max(b_n, 1))
    if FIXED:
        b_z += tl.sum(tl.exp2(b_s), 1)
    else:
        b_top = tl.maximum(b_m, tl.max(b_s, 1))
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_z = b_z * tl.exp2(b_m - b_base) + tl.sum(tl.exp2(b_s - b_base[:, None]), 1)
        b_m = b_top
    return b_m, b_z, b_rival


@triton.jit
def forward_kernel(
    p_high,  # (N + padding, STRIDE)
    p_low,
    p_unit,  # (N + padding,) see prepare_kernel
    p_shift,  # (N + padding,)
    p_block,  # (N,)
    p_ring,  # (N,)
    p_modality,  # (N,)
    p_edges,  # (row blocks, 4) see primitives.block_edges
    p_anchor,  # (R,)
    p_temperature,  # ()
    p_m,  # (splits, R) running maximum of s log2 e; unused with one shift
    p_z,  # (splits, R) sum of 2^(s log2 e - maximum)
    p_rival,  # (splits, R) largest s log2 e + shift among negatives
    rows,
    columns,
    splits,
    temperature,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
    FIXED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    LEARNED: tl.constexpr,
    ANCHORED: tl.constexpr,
    ACCURACY: tl.constexpr,
):
    """Z_i = sum_j 2^(s_ij + shift_j) over this program's columns.

    2 R N D operations (4 times that where SPLIT), R N powers of two. Reads N D numbers for every ROWS rows, writes one
    to three a row and split.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    # Where only the device knows the temperature, both kinds are launched and one does the work.
    if one_shift(temperature, NORMALIZE) == FIXED:
        split = tl.program_id(1)
        o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
        b_factor = row_factor(p_unit, o_r, temperature, SPLIT)
        b_block = tl.load(p_block + o_r)
        b_kind = tl.load(p_modality + o_r)
        b_q, b_q_low = (), ()
        if not WIDE:
            b_q, b_q_low = all_features(p_high, p_low, o_r, STRIDE, CHUNK, SPLIT)
        begin, edge, inside, outside, after, end = plan(p_edges, split, splits, columns, ANCHORED, COLUMNS)
        b_m = tl.full([ROWS], float("-inf"), tl.float32)
        b_z = tl.zeros([ROWS], tl.float32)
        b_rival = tl.full([ROWS], float("-inf"), tl.float32)
        for t in range(0, (inside - edge) + (after - outside)):
            b_m, b_z, b_rival = _tile(
                b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r,
                walk(t, edge, inside - edge, outside), b_factor, columns,
                p_high, p_low, p_unit, p_shift, p_block, p_ring, p_modality,
                STRIDE, CHUNK, COLUMNS, FIXED, SPLIT, WIDE, True, ACCURACY,
            )  # fmt: skip
        for t in range(0, (edge - begin) + (end - after)):
            b_m, b_z, b_rival = _tile(
                b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r,
                walk(t, begin, edge - begin, after), b_factor, columns,
                p_high, p_low, p_unit, p_shift, p_block, p_ring, p_modality,
                STRIDE, CHUNK, COLUMNS, FIXED, SPLIT, WIDE, False, ACCURACY,
            )  # fmt: skip
        o_z = split * rows + o_out
        tl.store(p_z + o_z, b_z, mask=m_r)
        if not FIXED:
            tl.store(p_m + o_z, b_m, mask=m_r)
        if ACCURACY:
            tl.store(p_rival + o_z, b_rival, mask=m_r)


@triton.jit
def _halved_tile(
    b_z, b_q, b_q_low, b_block, b_observed, o_r, i, t, blocks, b_factor, tokens,
    p_high, p_low, p_unit, p_shift, p_block, p_columns,
    STRIDE: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr,
    COMPARE: tl.constexpr,
):  # fmt: skip
    j = tl.where(i + t < blocks, i + t, i + t - blocks)
    o_n = j * ROWS + tl.arange(0, ROWS)
    b_k, b_k_low = b_q, b_q_low
    if not WIDE:
        b_k, b_k_low = all_features(p_high, p_low, o_n, STRIDE, CHUNK, SPLIT)
    b_s = similarities(b_q, b_q_low, b_k, b_k_low, o_r, o_n, p_high, p_low, STRIDE, CHUNK, SPLIT, WIDE)
    b_e = tl.exp2(logits(b_s, b_factor, p_unit, o_n, SPLIT) + (tl.load(p_shift + o_n)[None, :] + b_observed[:, None]))
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < tokens, other=-1)
        b_e = tl.where(b_block[:, None] == b_other[None, :], 0.0, b_e)
    m_n = o_n < tl.where(t > 0, tokens, 0)  # the tile on the diagonal serves its rows alone
    tl.store(p_columns + (t - 1) * tokens + o_n, tl.sum(b_e, 0), mask=m_n)
    return b_z + tl.sum(b_e, 1)


@triton.jit
def halved_kernel(
    p_high,  # (N + padding, STRIDE)
    p_low,
    p_unit,  # (N + padding,) see prepare_kernel
    p_shift,  # (N + padding,)
    p_block,  # (N,)
    p_edges,  # (row blocks, 4) see primitives.block_edges
    p_temperature,  # ()
    p_z,  # (splits, N) sums along rows
    p_columns,  # (row blocks // 2, N) sums along the columns of the tiles t + 1 blocks ahead of their rows; zeros
    tokens,
    splits,
    temperature,
    ROWS: tl.constexpr,
    STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
    LEARNED: tl.constexpr,
):
    """Z from half of the tiles, with one shift: row block i meets column blocks i, i + 1, ... halfway round the circle.

    So every pair of blocks meets once, all programs have the same work, and each sum has one place and one writer.
    N^2 D operations (4 times that where SPLIT), N^2 / 2 powers of two. Reads N D / 2 numbers for every ROWS rows,
    writes N^2 / (2 ROWS) sums along columns.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    if one_shift(temperature, True):
        i = tl.program_id(0)
        blocks = tl.num_programs(0)
        o_r = i * ROWS + tl.arange(0, ROWS)
        m_r = o_r < tokens
        b_factor = row_factor(p_unit, o_r, temperature, SPLIT)
        b_block = tl.load(p_block + o_r, mask=m_r, other=-1)
        b_observed = tl.where(tl.load(p_shift + o_r) == float("-inf"), float("-inf"), 0.0)
        b_q, b_q_low = (), ()
        if not WIDE:
            b_q, b_q_low = all_features(p_high, p_low, o_r, STRIDE, CHUNK, SPLIT)
        b_z = tl.zeros([ROWS], tl.float32)

        # Blocks inside .. outside - 1, this one among them if there are any, are excluded for every row.
        p_edges += 4 * i
        inside = tl.cdiv(tl.load(p_edges + 2), ROWS)
        outside = tl.load(p_edges + 3) // ROWS
        m_excluded = (inside <= i) & (i < outside)
        end = blocks // 2 + tl.where((blocks % 2 == 1) | (i < blocks // 2), 1, 0)  # of two opposite ones one meets
        begin = tl.where(m_excluded, tl.minimum(outside - i, end), 0)
        end = tl.where(m_excluded, tl.maximum(tl.minimum(end, blocks + inside - i), begin), end)
        split = tl.program_id(1)
        first = begin + (end - begin) * split // splits
        last = begin + (end - begin) * (split + 1) // splits
        # Labels are compared in tiles first .. head - 1, which hold excluded columns behind the diagonal, and in those
        # from tail on, which hold excluded columns before it, reached round the circle.
        head = tl.minimum(tl.maximum(tl.cdiv(tl.load(p_edges + 1), ROWS) - i, first), last)
        tail = tl.minimum(tl.maximum(blocks + tl.load(p_edges) // ROWS - i, head), last)
        for t in range(0, (head - first) + (last - tail)):
            b_z = _halved_tile(
                b_z, b_q, b_q_low, b_block, b_observed, o_r, i,
                walk(t, first, head - first, tail), blocks, b_factor, tokens,
                p_high, p_low, p_unit, p_shift, p_block, p_columns, STRIDE, CHUNK, ROWS, SPLIT, WIDE, True,
            )  # fmt: skip
        for t in range(head, tail):
            b_z = _halved_tile(
                b_z, b_q, b_q_low, b_block, b_observed, o_r, i, t, blocks, b_factor, tokens,
                p_high, p_low, p_unit, p_shift, p_block, p_columns, STRIDE, CHUNK, ROWS, SPLIT, WIDE, False,
            )  # fmt: skip
        tl.store(p_z + split * tokens + o_r, b_z, mask=m_r)
