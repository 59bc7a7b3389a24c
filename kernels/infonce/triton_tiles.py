"""The N^2 work: tiles of the similarity matrix, every program owning a block of rows. See ``triton.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_common import positive, program_rows, weights


@triton.jit
def _product(b_a, b_a_low, b_b, b_b_low, b_sum, SPLIT: tl.constexpr):
    """b_sum + a b, in three products where the operands are split; the small ones first."""
    if SPLIT:
        b_sum = tl.dot(b_a_low, b_b, b_sum)
        b_sum = tl.dot(b_a, b_b_low, b_sum)
    return tl.dot(b_a, b_b, b_sum, input_precision="ieee")


@triton.jit
def features(p_high, p_low, o_r, d, PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr):
    """Features d .. d + BLOCK_D of tokens o_r, (tokens, features), and their low parts."""
    o_x = o_r.to(tl.int64)[:, None] * PADDED_D + d + tl.arange(0, BLOCK_D)[None, :]
    b_high = tl.load(p_high + o_x)
    b_low = b_high
    if SPLIT:
        b_low = tl.load(p_low + o_x)
    return b_high, b_low


@triton.jit
def similarities(
    b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """f_r . f_n, (rows, columns), and the columns' last block of features. b_q holds the rows' first."""
    b_s = tl.zeros([o_r.shape[0], o_n.shape[0]], tl.float32)
    b_k, b_k_low = features(p_high, p_low, o_n, 0, PADDED_D, BLOCK_D, SPLIT)
    b_s = _product(b_q, b_q_low, tl.trans(b_k), tl.trans(b_k_low), b_s, SPLIT)
    for d in tl.static_range(BLOCK_D, PADDED_D, BLOCK_D):
        b_q, b_q_low = features(p_high, p_low, o_r, d, PADDED_D, BLOCK_D, SPLIT)
        b_k, b_k_low = features(p_high, p_low, o_n, d, PADDED_D, BLOCK_D, SPLIT)
        b_s = _product(b_q, b_q_low, tl.trans(b_k), tl.trans(b_k_low), b_s, SPLIT)
    return b_s, b_k, b_k_low


@triton.jit
def _plan(p_edges, split, splits, columns, ANCHORED: tl.constexpr, COLUMNS: tl.constexpr):
    """Column tiles of this program: those to compare labels in, then those without excluded columns.

    Two runs each, as (first tile, tiles) of the first run and first tile of the second.
    """
    tiles = tl.cdiv(columns, COLUMNS)
    begin = tiles * split // splits
    end = tiles * (split + 1) // splits
    if ANCHORED:  # rows in any order: compare everywhere
        edge, inside, outside, after = begin, end, end, end
    else:
        # Columns lo .. hi - 1 hold the blocks of these rows; lo_in .. hi_in - 1 are excluded for every one.
        p_edge = p_edges + 4 * tl.program_id(0)
        edge = tl.minimum(tl.maximum(tl.load(p_edge) // COLUMNS, begin), end)
        after = tl.minimum(tl.maximum(tl.cdiv(tl.load(p_edge + 1), COLUMNS), edge), end)
        inside = tl.minimum(tl.maximum(tl.cdiv(tl.load(p_edge + 2), COLUMNS), edge), after)
        outside = tl.minimum(tl.maximum(tl.load(p_edge + 3) // COLUMNS, inside), after)
    return begin, edge, inside, outside, after, end


@triton.jit
def _walk(t, first, count, second):
    return tl.where(t < count, first + t, second + t - count)


@triton.jit
def _forward_tile(
    b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r, tile, scale, columns,
    p_high, p_low, p_shift, p_block, p_ring, p_modality,
    PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, COLUMNS: tl.constexpr, FIXED: tl.constexpr,
    SPLIT: tl.constexpr, COMPARE: tl.constexpr, ACCURACY: tl.constexpr,
):  # fmt: skip
    o_n = tile * COLUMNS + tl.arange(0, COLUMNS)
    b_s, _, _ = similarities(b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D, BLOCK_D, SPLIT)
    b_s = b_s * (scale * 1.4426950408889634) + tl.load(p_shift + o_n)[None, :]
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
    p_high,  # (N + padding, D + padding)
    p_low,
    p_shift,  # (N + padding,)
    p_scale,  # (2,) scale, and whether one shift serves all rows
    p_block,  # (N,)
    p_ring,  # (N,)
    p_modality,  # (N,)
    p_edges,  # (row blocks, 4) see _plan
    p_anchor,  # (R,)
    p_m,  # (splits, R) running maximum of s log2(e); unused with one shift
    p_z,  # (splits, R) sum of 2^(s log2(e) - maximum)
    p_rival,  # (splits, R) largest s log2(e) + shift among negatives
    rows,
    columns,
    splits,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED_D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
    FIXED: tl.constexpr,
    ANCHORED: tl.constexpr,
    ACCURACY: tl.constexpr,
):
    scale = tl.load(p_scale)
    # Where only the device knows the temperature, both kinds are launched and one does the work.
    if (tl.load(p_scale + 1) > 0) == FIXED:
        split = tl.program_id(1)
        o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
        b_block = tl.load(p_block + o_r)
        b_kind = tl.load(p_modality + o_r)
        b_q, b_q_low = features(p_high, p_low, o_r, 0, PADDED_D, BLOCK_D, SPLIT)
        begin, edge, inside, outside, after, end = _plan(p_edges, split, splits, columns, ANCHORED, COLUMNS)
        b_m = tl.full([ROWS], float("-inf"), tl.float32)
        b_z = tl.zeros([ROWS], tl.float32)
        b_rival = tl.full([ROWS], float("-inf"), tl.float32)
        for t in range(0, (inside - edge) + (after - outside)):
            b_m, b_z, b_rival = _forward_tile(
                b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r,
                _walk(t, edge, inside - edge, outside), scale, columns,
                p_high, p_low, p_shift, p_block, p_ring, p_modality,
                PADDED_D, BLOCK_D, COLUMNS, FIXED, SPLIT, True, ACCURACY,
            )  # fmt: skip
        for t in range(0, (edge - begin) + (end - after)):
            b_m, b_z, b_rival = _forward_tile(
                b_m, b_z, b_rival, b_q, b_q_low, b_block, b_kind, o_r, m_r,
                _walk(t, begin, edge - begin, after), scale, columns,
                p_high, p_low, p_shift, p_block, p_ring, p_modality,
                PADDED_D, BLOCK_D, COLUMNS, FIXED, SPLIT, False, ACCURACY,
            )  # fmt: skip
        o_z = split * rows + o_out
        tl.store(p_z + o_z, b_z, mask=m_r)
        if not FIXED:
            tl.store(p_m + o_z, b_m, mask=m_r)
        if ACCURACY:
            tl.store(p_rival + o_z, b_rival, mask=m_r)


@triton.jit
def _backward_tile(
    b_d, b_q, b_q_low, b_block, b_weight, b_log_z, o_r, tile, scale, columns,
    p_high, p_low, p_shift, p_block, p_weight, p_log_z,
    PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, COLUMNS: tl.constexpr, FIXED: tl.constexpr,
    SPLIT: tl.constexpr, COMPARE: tl.constexpr,
):  # fmt: skip
    o_n = tile * COLUMNS + tl.arange(0, COLUMNS)
    b_s, b_k, b_k_low = similarities(b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D, BLOCK_D, SPLIT)
    b_column_log_z = b_log_z
    if not FIXED:
        b_column_log_z = tl.load(p_log_z + o_n)
    b_w = weights(
        b_s * (scale * 1.4426950408889634), b_weight[:, None], tl.load(p_weight + o_n)[None, :],
        b_log_z[:, None], b_column_log_z[None, :], tl.load(p_shift + o_n)[None, :], FIXED,
    )  # fmt: skip
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < columns, other=-1)
        b_w = tl.where(b_block[:, None] == b_other[None, :], 0.0, b_w)
    if BLOCK_D < PADDED_D:
        b_k, b_k_low = features(p_high, p_low, o_n, tl.program_id(2) * BLOCK_D, PADDED_D, BLOCK_D, SPLIT)
    b_high = b_w.to(b_k.dtype)
    b_low = (b_w - b_high.to(tl.float32)).to(b_k.dtype)
    return _product(b_high, b_low, b_k, b_k_low, b_d, SPLIT)


@triton.jit
def backward_kernel(
    p_high,  # (N + padding, D + padding)
    p_low,
    p_shift,  # (N + padding,)
    p_scale,  # (2,)
    p_block,  # (N,)
    p_edges,  # (row blocks, 4)
    p_anchor,  # (R,)
    p_weight,  # (N + padding,) w, or w e^scale / Z with one shift
    p_log_z,  # (N + padding,) log2 Z; unused with one shift
    p_d,  # (splits, R, D + padding) dL/df / scale
    rows,
    columns,
    splits,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PADDED_D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
    FIXED: tl.constexpr,
    ANCHORED: tl.constexpr,
):
    scale = tl.load(p_scale)
    if (tl.load(p_scale + 1) > 0) == FIXED:
        split = tl.program_id(1)
        o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
        b_block = tl.load(p_block + o_r)
        b_weight = tl.load(p_weight + o_r)
        b_log_z = tl.load(p_log_z + o_r)
        b_q, b_q_low = features(p_high, p_low, o_r, 0, PADDED_D, BLOCK_D, SPLIT)
        begin, edge, inside, outside, after, end = _plan(p_edges, split, splits, columns, ANCHORED, COLUMNS)
        b_d = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for t in range(0, (inside - edge) + (after - outside)):
            b_d = _backward_tile(
                b_d, b_q, b_q_low, b_block, b_weight, b_log_z, o_r,
                _walk(t, edge, inside - edge, outside), scale, columns,
                p_high, p_low, p_shift, p_block, p_weight, p_log_z,
                PADDED_D, BLOCK_D, COLUMNS, FIXED, SPLIT, True,
            )  # fmt: skip
        for t in range(0, (edge - begin) + (end - after)):
            b_d = _backward_tile(
                b_d, b_q, b_q_low, b_block, b_weight, b_log_z, o_r,
                _walk(t, begin, edge - begin, after), scale, columns,
                p_high, p_low, p_shift, p_block, p_weight, p_log_z,
                PADDED_D, BLOCK_D, COLUMNS, FIXED, SPLIT, False,
            )  # fmt: skip
        o_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
        o_x = (split.to(tl.int64) * rows + o_out)[:, None] * PADDED_D + o_d[None, :]
        tl.store(p_d + o_x, b_d, mask=m_r[:, None])
