"""The forward pass from half of the tiles: each serves its rows and its columns. See ``triton.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_tiles import features, similarities


@triton.jit
def half_forward_kernel(
    p_high,  # (N + padding, D + padding)
    p_low,
    p_shift,  # (N + padding,)
    p_scale,  # (2,) scale, and whether one shift serves all rows, without which this kernel does nothing
    p_block,  # (N,)
    p_edges,  # (row blocks, 4) see triton_tiles._plan
    p_z,  # (splits, N) sums along rows
    p_columns,  # (row blocks // 2, N) sums along the columns of the tiles t + 1 blocks ahead of their rows
    tokens,
    splits,
    ROWS: tl.constexpr,
    PADDED_D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Row block i meets column blocks i, i + 1, ... halfway round the circle of blocks.

    So every pair of blocks meets once, all programs have the same work, and each sum has one place and one writer.
    """
    scale = tl.load(p_scale)
    if tl.load(p_scale + 1) > 0:
        i = tl.program_id(0)
        blocks = tl.num_programs(0)
        o_r = i * ROWS + tl.arange(0, ROWS)
        m_r = o_r < tokens
        b_block = tl.load(p_block + o_r, mask=m_r, other=-1)
        b_observed = tl.where(tl.load(p_shift + o_r) == float("-inf"), float("-inf"), 0.0)
        b_q, b_q_low = features(p_high, p_low, o_r, 0, PADDED_D, BLOCK_D, SPLIT)
        b_z = tl.zeros([ROWS], tl.float32)

        # Blocks inside .. outside - 1, this one among them if there are any, are excluded for every row.
        inside = tl.cdiv(tl.load(p_edges + 4 * i + 2), ROWS)
        outside = tl.load(p_edges + 4 * i + 3) // ROWS
        m_excluded = (inside <= i) & (i < outside)
        end = blocks // 2 + tl.where((blocks % 2 == 1) | (i < blocks // 2), 1, 0)  # of two opposite ones one meets
        begin = tl.where(m_excluded, tl.minimum(outside - i, end), 0)
        end = tl.where(m_excluded, tl.maximum(tl.minimum(end, blocks + inside - i), begin), end)
        split = tl.program_id(1)
        for t in range(begin + (end - begin) * split // splits, begin + (end - begin) * (split + 1) // splits):
            j = tl.where(i + t < blocks, i + t, i + t - blocks)
            o_n = j * ROWS + tl.arange(0, ROWS)
            b_s, _, _ = similarities(b_q, b_q_low, o_r, o_n, p_high, p_low, PADDED_D, BLOCK_D, SPLIT)
            b_s = b_s * (scale * 1.4426950408889634) + (tl.load(p_shift + o_n)[None, :] + b_observed[:, None])
            b_other = tl.load(p_block + o_n, mask=o_n < tokens, other=-1)
            b_e = tl.where(b_block[:, None] == b_other[None, :], 0.0, tl.exp2(b_s))
            b_z += tl.sum(b_e, 1)
            o_column = (tl.zeros([ROWS], tl.int64) + (t - 1)) * tokens + o_n
            tl.store(p_columns + o_column, tl.sum(b_e, 0), mask=(o_n < tokens) & (t > 0))
        tl.store(p_z + split * tokens + o_r, b_z, mask=m_r)
