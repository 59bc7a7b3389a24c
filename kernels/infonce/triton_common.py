"""What the tile kernels and the row kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def positive(o_r, o_j, b_kind, m_r, p_modality):
    """Which of tokens o_j are positives of rows o_r, whose modality is b_kind."""
    b_other = tl.load(p_modality + o_j, mask=m_r, other=-1)
    return m_r & (o_j != o_r) & (b_other >= 0) & (b_kind >= 0) & (b_other != b_kind)


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
def weights(b_s, b_row, b_column, b_row_log_z, b_column_log_z, b_shift, FIXED: tl.constexpr):
    """w_i e^s / Z_i + w_j e^s / Z_j; with one shift, b_row and b_column hold w e^(scale) / Z."""
    if FIXED:
        b_w = tl.exp2(b_s + b_shift) * (b_row + b_column)
    else:
        b_s += b_shift  # 0 or -inf
        b_w = b_row * tl.exp2(b_s - b_row_log_z) + b_column * tl.exp2(b_s - b_column_log_z)
    return b_w
