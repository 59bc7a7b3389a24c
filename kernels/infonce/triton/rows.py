"""The O(N D) work behind the tiles, some rows a program: partial sums, and the positives row by row."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LN_2, LOG2_E
from .backward import direction_unit, weight_unit
from .primitives import one_shift, positive, program_rows, row_factor, row_weights, scaled, temperature_of, weights


@triton.jit
def _directions(
    p_high, p_low, o_r, m_r, D: tl.constexpr, STRIDE: tl.constexpr, PADDED_D: tl.constexpr, SPLIT: tl.constexpr
):  # fmt: skip
    """Rows o_r of what the tiles multiplied, (rows, PADDED_D) float32, and their low parts."""
    o_d = tl.arange(0, PADDED_D)
    o_x = o_r.to(tl.int64)[:, None] * STRIDE + o_d[None, :]
    m_x = m_r[:, None] & (o_d < D)[None, :]
    b_high = tl.load(p_high + o_x, mask=m_x, other=0.0).to(tl.float32)
    b_low = b_high
    if SPLIT:
        b_low = tl.load(p_low + o_x, mask=m_x, other=0.0).to(tl.float32)
    return b_high, b_low


@triton.jit
def _logits(b_high, b_low, b_other, b_other_low, b_factor, p_unit, o_j, m_p, SPLIT: tl.constexpr):
    """What a tile has made of a row and its positive, (rows,): where SPLIT bit for bit, but for the rest's rounding.

    So that a positive's part of Z is the same here and there, and is not mistaken for a part of the negatives.
    """
    b_s = tl.sum(b_high * b_other, 1)  # SPLIT: of whole numbers, exact in any order
    if SPLIT:
        b_s += tl.sum(b_low * (b_other + b_other_low) + b_high * b_other_low, 1)
        b_s *= tl.load(p_unit + o_j, mask=m_p, other=0.0)
    return scaled(b_s, b_factor, SPLIT)


@triton.jit
def losses_kernel(
    p_high,  # (N + padding, STRIDE)
    p_low,
    p_unit,  # (N + padding,) see prepare_kernel
    p_ring,  # (N,)
    p_modality,  # (N,)
    p_anchor,  # (R,)
    p_temperature,  # ()
    p_m,  # (splits, R)
    p_z,  # (splits, R)
    p_columns,  # (column sums, N) of halved_kernel
    p_rival,  # (splits, R)
    p_loss,  # (R,)
    p_log_z,  # (R,)
    p_log_y,  # (R,)
    p_hit,  # (R,) int8
    rows,
    splits,
    column_sums,  # 0 where all tiles were used
    temperature,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDED_D: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    NORMALIZE: tl.constexpr,
    LEARNED: tl.constexpr,
    ANCHORED: tl.constexpr,
    ACCURACY: tl.constexpr,
    PLACE: tl.constexpr,  # positives are in excluded blocks, so that no tile has added them to Z
    TIE: tl.constexpr,
):
    """loss_i = log Z_i - log Y_i, Y from the positives, Z from its partial sums and, where PLACE, Y.

    2 (M - 1) D operations a row. Reads f of a row and of its M - 1 positives, and a number for every split and column
    sum; writes three or four numbers a row.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    fixed = one_shift(temperature, NORMALIZE)
    scale = LOG2_E / temperature
    shift = tl.where(fixed, scale, 0.0)
    o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
    b_m = tl.full([ROWS], float("-inf"), tl.float32)
    b_z = tl.zeros([ROWS], tl.float32)
    b_rival = tl.full([ROWS], float("-inf"), tl.float32)
    for split in range(splits):
        o_z = split * rows + o_out
        b_part = tl.load(p_z + o_z, mask=m_r, other=0.0)
        b_part_m = shift + tl.zeros([ROWS], tl.float32)
        if not fixed:
            b_part_m = tl.load(p_m + o_z, mask=m_r, other=0.0)
        b_top = tl.maximum(b_m, b_part_m)
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_z = b_z * tl.exp2(b_m - b_base) + b_part * tl.exp2(b_part_m - b_base)
        b_m = b_top
        if ACCURACY:
            b_rival = tl.maximum(b_rival, tl.load(p_rival + o_z, mask=m_r, other=0.0) + shift)
    for block in range(column_sums):  # there is one shift for all
        b_z += tl.load(p_columns + block * rows + o_out, mask=m_r, other=0.0)
    b_log_z = b_m + tl.log2(b_z)

    b_kind = tl.load(p_modality + o_r, mask=m_r, other=-1)
    b_factor = row_factor(p_unit, o_r, temperature, SPLIT)
    b_high, b_low = _directions(p_high, p_low, o_r, m_r, D, STRIDE, PADDED_D, SPLIT)
    b_best = tl.full([ROWS], float("-inf"), tl.float32)
    b_y = tl.zeros([ROWS], tl.float32)
    m_anchor = m_r & (o_r < 0)  # rows with a positive, whatever it holds
    o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
    while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
        m_p = positive(o_r, o_j, b_kind, m_r, p_modality)
        b_other, b_other_low = _directions(p_high, p_low, o_j, m_p, D, STRIDE, PADDED_D, SPLIT)
        b_s = _logits(b_high, b_low, b_other, b_other_low, b_factor, p_unit, o_j, m_p, SPLIT)
        b_s = tl.where(m_p, b_s, float("-inf"))
        m_anchor = m_anchor | m_p
        b_top = tl.maximum(b_best, b_s)
        b_base = tl.where(b_top == float("-inf"), 0.0, b_top)
        b_y = b_y * tl.exp2(b_best - b_base) + tl.exp2(b_s - b_base)
        b_best = b_top
        o_j = tl.where(o_j == o_r, o_j, tl.load(p_ring + o_j, mask=m_r, other=0))
    b_log_y = b_best + tl.log2(b_y)

    if PLACE:
        b_ahead = b_log_z - b_log_y  # of the negatives
        b_loss = tl.maximum(b_ahead, 0.0) + tl.log2(1.0 + tl.exp2(-tl.abs(b_ahead)))
        b_log_z = b_log_y + b_loss
        b_loss *= LN_2
    else:
        # Never below 0: the positives are among the denominator, formed there by another sum.
        b_loss = (b_log_z - b_log_y) * LN_2
        b_loss = tl.where(b_loss < 0.0, 0.0, b_loss)  # what is not a number stays none
    tl.store(p_loss + o_out, tl.where(m_anchor, b_loss, 0.0), mask=m_r)
    tl.store(p_log_z + o_out, tl.where(m_anchor, b_log_z * LN_2, float("inf")), mask=m_r)
    tl.store(p_log_y + o_out, tl.where(m_anchor, b_log_y * LN_2, float("inf")), mask=m_r)
    if ACCURACY:
        b_margin = TIE * tl.maximum(tl.abs(b_best), tl.abs(b_rival))
        m_hit = (b_rival == float("-inf")) | (b_best - b_rival > b_margin)
        m_hit = m_hit & m_anchor & (b_loss == b_loss)
        tl.store(p_hit + o_out, m_hit.to(tl.int8), mask=m_r)


@triton.jit
def gradients_kernel(
    p_d,  # (splits, R, STRIDE) from backward_kernel
    p_slopes,  # (splits, R) likewise
    p_high,  # (N + padding, STRIDE)
    p_low,
    p_unit,  # (N + padding,)
    p_inverse,  # (N,)
    p_ring,  # (N,)
    p_modality,  # (N,)
    p_block,  # (N,)
    p_anchor,  # (R,)
    p_temperature,  # ()
    p_largest,  # ()
    p_largest_grad,  # ()
    p_grad,  # (N,)
    p_log_z,  # (N,)
    p_log_y,  # (N,)
    p_out,  # (R, D) gradient of the tokens
    p_slope,  # (R,) the rows' shares of the temperature's gradient
    rows,
    splits,
    temperature,
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDED_D: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    SCALED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    LEARNED: tl.constexpr,
    ANCHORED: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """dL/df_i = sum_j W_ij f_j / t with the positives' terms set right, then dL/dx_i = (dL/df - (f . dL/df) f) / |x|.

    4 (M - 1) D operations a row. Reads ``splits`` rows of d, f of a row and of its M - 1 positives; writes D gradients.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    fixed = one_shift(temperature, NORMALIZE)
    scale = LOG2_E / temperature
    unit = weight_unit(p_largest_grad, SCALED)
    of_tiles = 1.0 / unit / direction_unit(p_largest, SPLIT, NORMALIZE)
    o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
    o_d = tl.arange(0, PADDED_D)
    m_d = m_r[:, None] & (o_d < D)[None, :]
    b_d = tl.zeros([ROWS, PADDED_D], tl.float32)
    b_slope = tl.zeros([ROWS], tl.float32)
    for split in range(splits):
        o_x = (split * rows + o_out).to(tl.int64)[:, None] * STRIDE + o_d[None, :]
        b_d += tl.load(p_d + o_x, mask=m_d, other=0.0)
        if SLOPE:
            b_slope += tl.load(p_slopes + split * rows + o_out, mask=m_r, other=0.0)
    b_slope = b_slope / unit
    b_kind = tl.load(p_modality + o_r, mask=m_r, other=-1)
    b_factor = row_factor(p_unit, o_r, temperature, SPLIT)
    b_high, b_low = _directions(p_high, p_low, o_r, m_r, D, STRIDE, PADDED_D, SPLIT)
    b_grad = tl.load(p_grad + o_r)
    b_log_z = scaled(tl.load(p_log_z + o_r), LOG2_E, SPLIT)
    b_log_y = scaled(tl.load(p_log_y + o_r), LOG2_E, SPLIT)
    b_weight = row_weights(b_grad, b_log_z, temperature, fixed)
    shift = tl.where(fixed, -scale, 0.0)
    b_positives = tl.zeros([ROWS, PADDED_D], tl.float32)
    o_j = tl.load(p_ring + o_r, mask=m_r, other=0)
    while tl.max((m_r & (o_j != o_r)).to(tl.int32), 0) > 0:
        m_p = positive(o_r, o_j, b_kind, m_r, p_modality)
        b_other, b_other_low = _directions(p_high, p_low, o_j, m_p, D, STRIDE, PADDED_D, SPLIT)
        b_s = _logits(b_high, b_low, b_other, b_other_low, b_factor, p_unit, o_j, m_p, SPLIT)
        b_other_grad = tl.load(p_grad + o_j, mask=m_p, other=0.0)
        b_other_log_z = scaled(tl.load(p_log_z + o_j, mask=m_p, other=0.0), LOG2_E, SPLIT)
        b_other_log_y = scaled(tl.load(p_log_y + o_j, mask=m_p, other=0.0), LOG2_E, SPLIT)
        b_other_weight = row_weights(b_other_grad, b_other_log_z, temperature, fixed)
        # The tile has added these tokens' part of Z in the dtype of its operands. Take that back, so that what
        # nearly cancels, e^s / Z - e^s / Y, is formed here in float32.
        b_one = weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, shift, True)
        b_two = weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, 0.0, False)
        b_tile = tl.where(fixed, b_one, b_two)
        b_tile = tl.where(tl.load(p_block + o_r) == tl.load(p_block + o_j, mask=m_p, other=-1), 0.0, b_tile)
        if SLOPE:
            b_slope -= tl.where(m_p, b_tile * b_s, 0.0)
        if not SPLIT:
            b_tile = (b_tile * unit).to(p_high.dtype.element_ty).to(tl.float32) / unit
        b_pull = b_grad * (tl.exp2(b_s - b_log_z) - tl.exp2(b_s - b_log_y))
        b_pull += b_other_grad * (tl.exp2(b_s - b_other_log_z) - tl.exp2(b_s - b_other_log_y))
        if SLOPE:
            b_slope += tl.where(m_p, b_pull * b_s, 0.0)
        b_pull = tl.where(m_p, b_pull - b_tile, 0.0)
        if SPLIT:
            b_pull *= tl.load(p_unit + o_j, mask=m_p, other=0.0)
            b_other += b_other_low
        b_positives += b_pull[:, None] * b_other
        o_j = tl.where(o_j == o_r, o_j, tl.load(p_ring + o_j, mask=m_r, other=0))
    b_d = (b_d * of_tiles + b_positives) / temperature
    b_f = b_high
    if SPLIT:
        b_f = (b_high + b_low) * tl.load(p_unit + o_r)[:, None]
    b_along = tl.sum(b_d * b_f, 1)
    if SLOPE:
        tl.store(p_slope + o_out, tl.where(b_kind >= 0, b_slope * (-0.5 * LN_2 / temperature), 0.0), mask=m_r)
    if NORMALIZE:
        b_d = (b_d - b_along[:, None] * b_f) * tl.load(p_inverse + o_r)[:, None]
    b_d = tl.where((b_kind >= 0)[:, None], b_d, 0.0)
    o_x = o_out.to(tl.int64)[:, None] * D + o_d[None, :]
    tl.store(p_out + o_x, b_d.to(p_out.dtype.element_ty), mask=m_d)
