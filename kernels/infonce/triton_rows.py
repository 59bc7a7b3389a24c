"""The O(N) work, some rows a program: normalising, summing splits, and the positives. See ``triton.py``."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_common import positive, program_rows, weights


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
    o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
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
        m_p = positive(o_r, o_j, b_kind, m_r, p_modality)
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
    o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
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
        m_p = positive(o_r, o_j, b_kind, m_r, p_modality)
        b_other = _token_rows(p_high, p_low, o_j, m_p, PADDED_D, SPLIT)
        b_s = tl.sum(b_f * b_other, 1) * (scale * 1.4426950408889634)
        b_other_grad = tl.load(p_grad + o_j, mask=m_p, other=0.0)
        b_other_weight = tl.load(p_weight + o_j, mask=m_p, other=0.0)
        b_other_log_z = tl.load(p_log_z + o_j, mask=m_p, other=0.0)
        b_other_log_y = tl.load(p_log_y + o_j, mask=m_p, other=0.0)
        # The tile has added these tokens' part of Z in the dtype of its operands. Take that back, so that what
        # nearly cancels, e^s / Z - e^s / Y, is formed here in float32.
        b_one = weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, shift, True)
        b_two = weights(b_s, b_weight, b_other_weight, b_log_z, b_other_log_z, 0.0, False)
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
