"""Patch InfoNCE on the GPU: every program owns a block of rows; no atomics, the same bits every run.

    forward   Z_i = sum_j e^(s_ij - c)                                            2 N^2 D operations
    backward  W_ij = e^(s_ij - c) (w_i/Z_i + w_j/Z_j),  dL/df_i = sum_j W_ij f_j  4 N^2 D operations

Positives are M - 1 tokens a row: their terms are set right row by row, outside the tiles. Excluded blocks are
contiguous, so only tiles at their edges compare labels and tiles inside them are skipped; unobserved tokens and
padding vanish through a column's shift of -inf, which costs nothing. Column splits fill the chip where there are
fewer row blocks than multiprocessors; their partial sums are added in a fixed order.

float32 tokens are split into two bfloat16 parts, x = high + low, and multiplied as high high + high low + low high,
which keeps 16 bits of each factor (tf32, truncated by Triton on sm_86, keeps 10).
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import NO_DIRECTION, TIE

SAFE_SCALE = 32.0  # up to this 1 / temperature, e^(s - scale) of cosines is at least e^-64: one shift for all rows
_LOG2_E = 1.4426950408889634
_UNIT = 4096.0  # largest row weight in backward, whatever the reduction: float16 would lose weights of 1 / N
_MOST_SPLITS = 8


@dataclass(frozen=True)
class Tile:
    """Rows, columns, warps and pipeline stages of one program."""

    rows: int
    columns: int
    warps: int
    stages: int


# For up to 256 features, by architecture, dtype of the tokens ("half": 16 bits, "split": float32) and pass. A
# multiprocessor of sm_86 gives a program 101,376 bytes of shared memory.
TILES = {
    (86, "half", "forward"): Tile(64, 64, 4, 2),
    (86, "half", "backward"): Tile(64, 64, 8, 2),
    (86, "split", "forward"): Tile(32, 32, 4, 2),
    (86, "split", "backward"): Tile(32, 32, 8, 2),
    (90, "half", "forward"): Tile(128, 128, 8, 2),
    (90, "half", "backward"): Tile(128, 64, 8, 2),
    (90, "split", "forward"): Tile(64, 64, 4, 2),
    (90, "split", "backward"): Tile(64, 64, 8, 2),
}
_INTERPRETED = Tile(32, 32, 4, 1)
ROW_ELEMENTS = 4096  # entries of the tile of the kernels that go row by row


@triton.jit
def _positive(o_r, o_j, b_kind, m_r, p_modality):
    """Which of tokens o_j are positives of rows o_r, whose modality is b_kind."""
    b_other = tl.load(p_modality + o_j, mask=m_r, other=-1)
    return m_r & (o_j != o_r) & (b_other >= 0) & (b_kind >= 0) & (b_other != b_kind)


@triton.jit
def directions_kernel(
    p_tokens,  # (N, D)
    p_modality,  # (N,)
    p_scale,  # (2,) scale, and whether one shift serves all rows
    p_high,  # (N + padding, D + padding)
    p_low,  # like p_high, or unused
    p_inverse,  # (N,)
    p_shift,  # (N + padding,) -inf where not observed, else -scale log2(e) with one shift for all rows, else 0
    tokens,
    padded,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    ROWS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    NO_DIRECTION: tl.constexpr,
):
    o_r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, PADDED_D)
    b_kind = tl.load(p_modality + o_r, mask=o_r < tokens, other=-1)
    m_x = (b_kind >= 0)[:, None] & (o_d < D)[None, :]
    b_x = tl.load(p_tokens + o_r.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_x, other=0.0).to(tl.float32)
    if NORMALIZE:
        b_square = tl.sum(b_x * b_x, 1)
        m_directed = b_square > NO_DIRECTION * NO_DIRECTION
        b_inverse = tl.where(m_directed, 1.0 / tl.sqrt_rn(tl.where(m_directed, b_square, 1.0)), 0.0)
        b_x = b_x * b_inverse[:, None]
        tl.store(p_inverse + o_r, b_inverse, mask=o_r < tokens)
    else:
        tl.store(p_inverse + o_r, tl.full([ROWS], 1.0, tl.float32), mask=o_r < tokens)
    shift = tl.where(tl.load(p_scale + 1) > 0, -tl.load(p_scale) * 1.4426950408889634, 0.0)
    tl.store(p_shift + o_r, tl.where(b_kind >= 0, shift, float("-inf")), mask=o_r < padded)
    o_x = o_r.to(tl.int64)[:, None] * PADDED_D + o_d[None, :]
    b_high = b_x.to(p_high.dtype.element_ty)
    tl.store(p_high + o_x, b_high, mask=(o_r < padded)[:, None])
    if SPLIT:
        tl.store(p_low + o_x, (b_x - b_high.to(tl.float32)).to(tl.bfloat16), mask=(o_r < padded)[:, None])


@triton.jit
def _product(b_a, b_a_low, b_b, b_b_low, b_sum, SPLIT: tl.constexpr):
    """b_sum + a b, in three products where the operands are split; the small ones first."""
    if SPLIT:
        b_sum = tl.dot(b_a_low, b_b, b_sum)
        b_sum = tl.dot(b_a, b_b_low, b_sum)
    return tl.dot(b_a, b_b, b_sum, input_precision="ieee")


@triton.jit
def _features(p_high, p_low, o_r, d, PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr):
    """Features d .. d + BLOCK_D of tokens o_r, (tokens, features), and their low parts."""
    o_x = o_r.to(tl.int64)[:, None] * PADDED_D + d + tl.arange(0, BLOCK_D)[None, :]
    b_high = tl.load(p_high + o_x)
    b_low = b_high
    if SPLIT:
        b_low = tl.load(p_low + o_x)
    return b_high, b_low


@triton.jit
def _similarities(
    b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """f_r . f_n, (rows, columns), and the columns' last block of features. b_q holds the rows' first."""
    b_s = tl.zeros([o_r.shape[0], o_n.shape[0]], tl.float32)
    b_k, b_k_low = _features(p_high, p_low, o_n, 0, PADDED_D, BLOCK_D, SPLIT)
    b_s = _product(b_q, b_q_low, tl.trans(b_k), tl.trans(b_k_low), b_s, SPLIT)
    for d in tl.static_range(BLOCK_D, PADDED_D, BLOCK_D):
        b_q, b_q_low = _features(p_high, p_low, o_r, d, PADDED_D, BLOCK_D, SPLIT)
        b_k, b_k_low = _features(p_high, p_low, o_n, d, PADDED_D, BLOCK_D, SPLIT)
        b_s = _product(b_q, b_q_low, tl.trans(b_k), tl.trans(b_k_low), b_s, SPLIT)
    return b_s, b_k, b_k_low


@triton.jit
def _rows(p_anchor, rows, ANCHORED: tl.constexpr, ROWS: tl.constexpr):
    """This program's rows of the output, which of them exist, and their tokens."""
    o_out = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m_r = o_out < rows
    if ANCHORED:
        o_r = tl.load(p_anchor + o_out, mask=m_r, other=0).to(tl.int32)
    else:
        o_r = tl.minimum(o_out, rows - 1)  # a neighbour's row again, not stored
    return o_out, m_r, o_r


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
    b_s, _, _ = _similarities(b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D, BLOCK_D, SPLIT)
    b_s = b_s * (scale * 1.4426950408889634) + tl.load(p_shift + o_n)[None, :]
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < columns, other=-1)
        b_s = tl.where(b_block[:, None] == b_other[None, :], float("-inf"), b_s)
    if ACCURACY:
        b_n = b_s
        o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
        while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
            m_p = _positive(o_r, o_j, b_kind, m_r, p_modality)
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
        o_out, m_r, o_r = _rows(p_anchor, rows, ANCHORED, ROWS)
        b_block = tl.load(p_block + o_r)
        b_kind = tl.load(p_modality + o_r)
        b_q, b_q_low = _features(p_high, p_low, o_r, 0, PADDED_D, BLOCK_D, SPLIT)
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
def row_losses_kernel(
    p_high,
    p_low,
    p_scale,  # (2,)
    p_ring,
    p_modality,
    p_anchor,
    p_m,  # (splits, R)
    p_z,  # (splits, R)
    p_rival,  # (splits, R)
    p_loss,  # (R,)
    p_log_z,  # (R,)
    p_log_y,  # (R,)
    p_hit,  # (R,) int8
    rows,
    splits,
    PADDED_D: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    ANCHORED: tl.constexpr,
    ACCURACY: tl.constexpr,
    TIE: tl.constexpr,
):
    """Adds up the splits, and the positives row by row."""
    scale = tl.load(p_scale)
    fixed = tl.load(p_scale + 1) > 0
    shift = tl.where(fixed, scale * 1.4426950408889634, 0.0)
    o_out, m_r, o_r = _rows(p_anchor, rows, ANCHORED, ROWS)
    b_m = tl.full([ROWS], float("-inf"), tl.float32)
    b_z = tl.zeros([ROWS], tl.float32)
    b_rival = tl.full([ROWS], float("-inf"), tl.float32)
    for split in range(splits):
        o_z = split * rows + o_out
        b_part = tl.load(p_z + o_z, mask=m_r, other=0.0)
        b_part_m = tl.where(fixed, shift, tl.load(p_m + o_z, mask=m_r, other=0.0))
        b_top = tl.maximum(b_m, b_part_m)
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_z = b_z * tl.exp2(b_m - b_base) + b_part * tl.exp2(b_part_m - b_base)
        b_m = b_top
        if ACCURACY:
            b_rival = tl.maximum(b_rival, tl.load(p_rival + o_z, mask=m_r, other=0.0) + shift)
    b_log_z = b_m + tl.log2(b_z)

    b_f = _token_rows(p_high, p_low, o_r, m_r, PADDED_D, SPLIT)
    b_kind = tl.load(p_modality + o_r, mask=m_r, other=-1)
    b_best = tl.full([ROWS], float("-inf"), tl.float32)
    b_y = tl.zeros([ROWS], tl.float32)
    o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
    while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
        m_p = _positive(o_r, o_j, b_kind, m_r, p_modality)
        b_s = tl.sum(b_f * _token_rows(p_high, p_low, o_j, m_p, PADDED_D, SPLIT), 1) * (scale * 1.4426950408889634)
        b_s = tl.where(m_p, b_s, float("-inf"))
        b_top = tl.maximum(b_best, b_s)
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_y = b_y * tl.exp2(b_best - b_base) + tl.exp2(b_s - b_base)
        b_best = b_top
        o_j = tl.where(o_j == o_r, o_j, tl.load(p_ring + o_j, mask=m_r, other=0))
    b_log_y = b_best + tl.log2(b_y)

    m_anchor = b_best > float("-inf")
    # Never below 0: the positives are among the denominator, formed there by another sum.
    b_loss = tl.maximum(b_log_z - b_log_y, 0.0) * 0.6931471805599453
    tl.store(p_loss + o_out, tl.where(m_anchor, b_loss, 0.0), mask=m_r)
    tl.store(p_log_z + o_out, tl.where(m_anchor, b_log_z * 0.6931471805599453, float("inf")), mask=m_r)
    tl.store(p_log_y + o_out, tl.where(m_anchor, b_log_y * 0.6931471805599453, float("inf")), mask=m_r)
    if ACCURACY:
        b_margin = TIE * tl.maximum(tl.abs(b_best), tl.abs(b_rival))
        m_hit = (b_rival == float("-inf")) | (b_best - b_rival > b_margin)
        tl.store(p_hit + o_out, (m_hit & m_anchor).to(tl.int8), mask=m_r)


@triton.jit
def _token_rows(p_high, p_low, o_r, m_r, PADDED_D: tl.constexpr, SPLIT: tl.constexpr):
    """Rows o_r of f, (rows, D) float32."""
    o_x = o_r.to(tl.int64)[:, None] * PADDED_D + tl.arange(0, PADDED_D)[None, :]
    b_f = tl.load(p_high + o_x, mask=m_r[:, None], other=0.0).to(tl.float32)
    if SPLIT:
        b_f += tl.load(p_low + o_x, mask=m_r[:, None], other=0.0).to(tl.float32)
    return b_f


@triton.jit
def _weights(b_s, b_row, b_column, b_row_log_z, b_column_log_z, b_shift, FIXED: tl.constexpr):
    """w_i e^s / Z_i + w_j e^s / Z_j; with one shift, b_row and b_column hold w e^(scale) / Z."""
    if FIXED:
        b_w = tl.exp2(b_s + b_shift) * (b_row + b_column)
    else:
        b_s += b_shift  # 0 or -inf
        b_w = b_row * tl.exp2(b_s - b_row_log_z) + b_column * tl.exp2(b_s - b_column_log_z)
    return b_w


@triton.jit
def _backward_tile(
    b_d, b_q, b_q_low, b_block, b_weight, b_log_z, o_r, tile, scale, columns,
    p_high, p_low, p_shift, p_block, p_weight, p_log_z,
    PADDED_D: tl.constexpr, BLOCK_D: tl.constexpr, COLUMNS: tl.constexpr, FIXED: tl.constexpr,
    SPLIT: tl.constexpr, COMPARE: tl.constexpr,
):  # fmt: skip
    o_n = tile * COLUMNS + tl.arange(0, COLUMNS)
    b_s, b_k, b_k_low = _similarities(b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D, BLOCK_D, SPLIT)
    b_column_log_z = b_log_z
    if not FIXED:
        b_column_log_z = tl.load(p_log_z + o_n)
    b_w = _weights(
        b_s * (scale * 1.4426950408889634), b_weight[:, None], tl.load(p_weight + o_n)[None, :],
        b_log_z[:, None], b_column_log_z[None, :], tl.load(p_shift + o_n)[None, :], FIXED,
    )  # fmt: skip
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < columns, other=-1)
        b_w = tl.where(b_block[:, None] == b_other[None, :], 0.0, b_w)
    if BLOCK_D < PADDED_D:
        b_k, b_k_low = _features(p_high, p_low, o_n, tl.program_id(2) * BLOCK_D, PADDED_D, BLOCK_D, SPLIT)
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
        o_out, m_r, o_r = _rows(p_anchor, rows, ANCHORED, ROWS)
        b_block = tl.load(p_block + o_r)
        b_weight = tl.load(p_weight + o_r)
        b_log_z = tl.load(p_log_z + o_r)
        b_q, b_q_low = _features(p_high, p_low, o_r, 0, PADDED_D, BLOCK_D, SPLIT)
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


@triton.jit
def row_gradients_kernel(
    p_d,  # (splits, R, D + padding)
    p_high,
    p_low,
    p_scale,  # (2,)
    p_unit,  # (1,) unit of the weights in p_d and p_weight
    p_inverse,  # (N,)
    p_ring,
    p_modality,
    p_block,
    p_anchor,
    p_weight,  # (N + padding,) as in backward_kernel
    p_grad,  # (N,)
    p_log_z,  # (N + padding,) log2 Z
    p_log_y,  # (N + padding,) log2 Y
    p_out,  # (R, D) gradient of the tokens
    p_slope,  # (R,) f . dL/df
    rows,
    splits,
    D: tl.constexpr,
    PADDED_D: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    ANCHORED: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Adds up the splits and the positives row by row, and goes from f back to the tokens."""
    scale = tl.load(p_scale)
    fixed = tl.load(p_scale + 1) > 0
    unit = tl.load(p_unit)
    o_out, m_r, o_r = _rows(p_anchor, rows, ANCHORED, ROWS)
    o_d = tl.arange(0, PADDED_D)
    b_d = tl.zeros([ROWS, PADDED_D], tl.float32)
    for split in range(splits):
        o_x = (split * rows + o_out).to(tl.int64)[:, None] * PADDED_D + o_d[None, :]
        b_d += tl.load(p_d + o_x, mask=m_r[:, None], other=0.0)
    b_f = _token_rows(p_high, p_low, o_r, m_r, PADDED_D, SPLIT)
    b_kind = tl.load(p_modality + o_r, mask=m_r, other=-1)
    b_weight = tl.load(p_weight + o_r)
    b_grad = tl.load(p_grad + o_r)
    b_log_z, b_log_y = tl.load(p_log_z + o_r), tl.load(p_log_y + o_r)
    shift = tl.where(fixed, -scale * 1.4426950408889634, 0.0)
    b_positives = tl.zeros([ROWS, PADDED_D], tl.float32)
    o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
    while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
        m_p = _positive(o_r, o_j, b_kind, m_r, p_modality)
        b_other = _token_rows(p_high, p_low, o_j, m_p, PADDED_D, SPLIT)
        b_s = tl.sum(b_f * b_other, 1) * (scale * 1.4426950408889634)
        b_other_grad = tl.load(p_grad + o_j, mask=m_p, other=0.0)
        b_other_weight = tl.load(p_weight + o_j, mask=m_p, other=0.0)
        b_other_log_z = tl.load(p_log_z + o_j, mask=m_p, other=0.0)
        b_other_log_y = tl.load(p_log_y + o_j, mask=m_p, other=0.0)
        # The tile has added these tokens' part of Z in the dtype of its operands. Take that back, so that what
        # nearly cancels, e^s / Z - e^s / Y, is formed here in float32.
        b_one = _weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, shift, True)
        b_two = _weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, 0.0, False)
        b_tile = tl.where(fixed, b_one, b_two)
        b_tile = tl.where(tl.load(p_block + o_r) == tl.load(p_block + o_j, mask=m_p, other=-1), 0.0, b_tile)
        if not SPLIT:
            b_tile = b_tile.to(p_high.dtype.element_ty).to(tl.float32)
        b_pull = b_grad * (tl.exp2(b_s - b_log_z) - tl.exp2(b_s - b_log_y))
        b_pull += b_other_grad * (tl.exp2(b_s - b_other_log_z) - tl.exp2(b_s - b_other_log_y))
        b_positives += tl.where(m_p, b_pull - b_tile * unit, 0.0)[:, None] * b_other
        o_j = tl.where(o_j == o_r, o_j, tl.load(p_ring + o_j, mask=m_r, other=0))
    b_d = (b_d * unit + b_positives) * scale
    b_along = tl.sum(b_d * b_f, 1)
    tl.store(p_slope + o_out, b_along, mask=m_r)
    if NORMALIZE:
        b_d = (b_d - b_along[:, None] * b_f) * tl.load(p_inverse + o_r)[:, None]
    b_d = tl.where((b_kind >= 0)[:, None], b_d, 0.0)
    o_x = o_out.to(tl.int64)[:, None] * D + o_d[None, :]
    tl.store(p_out + o_x, b_d.to(p_out.dtype.element_ty), mask=m_r[:, None] & (o_d < D)[None, :])


def forward(
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor,
    normalize: bool,
    accuracy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see ``op.py`` for the meaning of every argument."""
    x = _Operands(tokens, modality, block, anchor, temperature, normalize, "forward")
    loss, log_z, log_y = (x.floats(x.rows) for _ in range(3))
    hit = torch.empty(x.rows if accuracy else 0, dtype=torch.bool, device=tokens.device)
    if x.rows == 0:
        return loss, log_z, log_y, x.inverse, hit
    splits = x.splits(x.padded // x.tile.columns)
    m, z = x.floats(splits, x.rows), x.floats(splits, x.rows)
    rival = x.floats(splits, x.rows) if accuracy else z
    x.tiles(
        forward_kernel,
        (ring, modality, x.edges, x.anchor, m, z, rival),
        (x.row_blocks, splits),
        splits,
        ACCURACY=accuracy,
    )
    row_losses_kernel[x.row_grid](
        *(x.high, x.low, x.scale, ring, modality, x.anchor, m, z, rival, loss, log_z, log_y),
        *(hit.view(torch.int8) if accuracy else loss, x.rows, splits),
        **x.row_constants,
        ACCURACY=accuracy,
        TIE=TIE,
    )
    return loss, log_z, log_y, x.inverse, hit


def backward(
    grad: Tensor,
    tokens: Tensor,
    modality: Tensor,
    block: Tensor,
    ring: Tensor,
    anchor: Tensor | None,
    temperature: Tensor,
    log_z: Tensor,
    log_y: Tensor,
    inverse: Tensor,
    normalize: bool,
    needs_temperature: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    x = _Operands(tokens, modality, block, anchor, temperature, normalize, "backward")
    d_tokens, slope = tokens.new_empty(x.rows, tokens.shape[1]), x.floats(x.rows)
    if x.rows == 0:
        return d_tokens, torch.zeros_like(temperature)
    splits = x.splits(x.padded // x.tile.columns)
    unit = grad.abs().amax().clamp(min=1e-30).reshape(1) / _UNIT
    weight = x.pad(torch.where(x.scale[1] > 0, (x.scale[0] - log_z).exp(), 1.0) * (grad / unit))
    log2_z, log2_y = x.pad(log_z * _LOG2_E), x.pad(log_y * _LOG2_E)
    d = x.floats(splits, x.rows, x.padded_dim)
    blocks_of_features = x.padded_dim // x.block_dim
    x.tiles(
        backward_kernel,
        (x.edges, x.anchor, weight, log2_z, d),
        (x.row_blocks, splits, blocks_of_features),
        splits,
    )
    row_gradients_kernel[x.row_grid](
        *(d, x.high, x.low, x.scale, unit, x.inverse, ring, modality, block, x.anchor, weight, grad),
        *(log2_z, log2_y, d_tokens, slope, x.rows, splits),
        **x.row_constants,
        D=tokens.shape[1],
        NORMALIZE=normalize,
    )
    if not needs_temperature:
        return d_tokens, torch.zeros_like(temperature)
    return d_tokens, (-0.5 * x.scale[0] * slope.sum()).to(temperature)


class _Operands:
    """The tokens as the kernels want them, and the launch parameters of one pass."""

    def __init__(
        self,
        tokens: Tensor,
        modality: Tensor,
        block: Tensor,
        anchor: Tensor | None,
        temperature: Tensor,
        normalize: bool,
        name: str,
    ) -> None:
        self.device = tokens.device
        self.tokens, dim = tokens.shape
        self.rows = self.tokens if anchor is None else len(anchor)
        self.anchored, self.anchor = anchor is not None, block if anchor is None else anchor
        self.padded_dim = max(16, triton.next_power_of_2(dim))
        self.block_dim = min(self.padded_dim, 256)
        self.split = tokens.dtype == torch.float32 and not _interpreting()
        self.tile = choose_tile(self.device, "split" if self.split else "half", name)
        self.row_blocks = triton.cdiv(self.rows, self.tile.rows)
        self.padded = triton.cdiv(self.tokens, 128) * 128
        self.block = block
        self.edges = block if self.anchored else self._edges()
        self._set_scale(temperature, normalize)
        self.inverse, self.shift = self.floats(self.tokens), self.floats(self.padded)

        high = torch.bfloat16 if self.split else tokens.dtype
        self.high = torch.empty(self.padded, self.padded_dim, dtype=high, device=self.device)
        self.low = torch.empty_like(self.high) if self.split else self.high
        row_tile = max(1, min(64, ROW_ELEMENTS // self.padded_dim))
        self.row_grid = (triton.cdiv(self.rows, row_tile),)
        self.row_constants = {
            "PADDED_D": self.padded_dim,
            "ROWS": row_tile,
            "SPLIT": self.split,
            "ANCHORED": self.anchored,
        }
        if self.tokens:
            directions_kernel[(triton.cdiv(self.padded, row_tile),)](
                *(tokens, modality, self.scale, self.high, self.low, self.inverse, self.shift),
                *(self.tokens, self.padded),
                D=dim,
                PADDED_D=self.padded_dim,
                ROWS=row_tile,
                NORMALIZE=normalize,
                SPLIT=self.split,
                NO_DIRECTION=NO_DIRECTION,
            )

    def _set_scale(self, temperature: Tensor, normalize: bool) -> None:
        """(scale, one shift?) on the device; and which kinds of kernel to launch: both where the host knows not."""
        if temperature.device.type == "cpu":
            scale = 1 / temperature.item()
            fixed = normalize and scale <= SAFE_SCALE
            self.scale = self.floats(2).fill_(scale)
            self.scale[1].fill_(fixed)
            self.kinds = (fixed,)
        else:
            scale = 1 / temperature.float()
            self.scale = torch.stack([scale, ((scale <= SAFE_SCALE) & normalize).float()])
            self.kinds = (True, False) if normalize else (False,)

    def _edges(self) -> Tensor:
        """Columns that tiles of rows exclude, (row blocks, 4) int32; see ``_plan``."""
        first = self.block[:: self.tile.rows]
        last = torch.cat([self.block[self.tile.rows - 1 :: self.tile.rows], self.block[-1:]])[: len(first)]
        low = torch.searchsorted(self.block, first, out_int32=True)
        high = torch.searchsorted(self.block, last, out_int32=True, right=True)
        return torch.stack([low, high, torch.where(first == last, low, high), high], 1)

    def floats(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def pad(self, x: Tensor) -> Tensor:
        """(N,) with zeros behind, (N + padding,)."""
        return torch.nn.functional.pad(x, (0, self.padded - self.tokens))

    def splits(self, most: int) -> int:
        """Column splits that leave few multiprocessors idle in the last wave."""
        slots = _multiprocessors(self.device)
        choices = range(1, min(_MOST_SPLITS, max(most, 1)) + 1)
        busy = {s: self.row_blocks * s / (slots * triton.cdiv(self.row_blocks * s, slots)) for s in choices}
        return next(s for s in choices if busy[s] >= 0.95 * max(busy.values()))

    def tiles(
        self, kernel: triton.JITFunction, others: tuple, grid: tuple[int, ...], splits: int, **flags: bool
    ) -> None:
        for fixed in self.kinds:
            kernel[grid](
                *(self.high, self.low, self.shift, self.scale, self.block, *others),
                *(self.rows, self.tokens, splits),
                ROWS=self.tile.rows,
                COLUMNS=self.tile.columns,
                PADDED_D=self.padded_dim,
                BLOCK_D=self.block_dim,
                SPLIT=self.split,
                FIXED=fixed,
                ANCHORED=self.anchored,
                num_warps=self.tile.warps,
                num_stages=self.tile.stages,
                **flags,
            )


def choose_tile(device: torch.device, kind: str, name: str) -> Tile:
    """The tile of a pass, by how much shared memory the device gives one program."""
    if _interpreting():
        return _INTERPRETED
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return TILES[90 if shared > 200_000 else 86, kind, name]


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return 4 if _interpreting() else torch.cuda.get_device_properties(device).multi_processor_count


def _interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
