"""What both passes need before their tiles, in one launch."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import LOG2_E, power_of_two, split_whole
from .primitives import block_edges, one_shift, row_weights, scaled, temperature_of


@triton.jit
def prepare_kernel(
    p_tokens,  # (N, D)
    p_modality,  # (N,)
    p_block,  # (N,)
    p_temperature,  # (), or unused
    p_grad,  # (N,) gradients of the losses; BACKWARD only, as the two below
    p_log_z,  # (N,) natural logarithm of Z
    p_weight,  # (N + padding,) see primitives.row_weights; 0 behind the tokens
    p_log2_z,  # (N + padding,)
    p_high,  # (N + padding, STRIDE) directions; 0 where not observed and behind the tokens
    p_low,  # like p_high where SPLIT, else unused
    p_unit,  # (N + padding,) power of two with which (high + low) of a token is f; SPLIT only
    p_inverse,  # (N,) inverse norms; forward only
    p_shift,  # (N + padding,) -inf where not observed, else minus the one shift in units of ln 2, else 0
    p_edges,  # (row blocks, 4) see primitives.block_edges
    tokens,
    padded,
    row_blocks,  # for which edges are wanted; 0: none
    temperature,
    BLOCK_ROWS: tl.constexpr,  # rows of a block that edges are for
    D: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDED_D: tl.constexpr,  # a power of two
    ROWS: tl.constexpr,
    NORMALIZE: tl.constexpr,
    SPLIT: tl.constexpr,
    LEARNED: tl.constexpr,
    BACKWARD: tl.constexpr,
    NO_DIRECTION: tl.constexpr,
):
    """f = x / |x| in the dtype of the products, or scaled by a power of two and in two float16; and numbers by token.

    Reads the tokens once and writes as much again: N D (4 + 4) bytes in float32, N D (2 + 2) in bfloat16.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    fixed = one_shift(temperature, NORMALIZE)
    o_r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o_d = tl.arange(0, PADDED_D)
    m_r = o_r < tokens
    b_kind = tl.load(p_modality + o_r, mask=m_r, other=-1)
    m_x = (b_kind >= 0)[:, None] & (o_d < D)[None, :]
    b_x = tl.load(p_tokens + o_r.to(tl.int64)[:, None] * D + o_d[None, :], mask=m_x, other=0.0).to(tl.float32)
    b_inverse = tl.full([ROWS], 1.0, tl.float32)
    if NORMALIZE:
        b_square = tl.sum(b_x * b_x, 1)
        m_directed = (b_square > NO_DIRECTION * NO_DIRECTION) | (b_square != b_square)
        b_inverse = tl.where(m_directed, 1.0 / tl.sqrt_rn(tl.where(m_directed, b_square, 1.0)), 0.0)
        b_inverse = tl.where(b_square == float("inf"), float("nan"), b_inverse)  # not cosine 0 with everything
        b_x = b_x * b_inverse[:, None]

    o_x = o_r.to(tl.int64)[:, None] * STRIDE + o_d[None, :]
    m_store = (o_r < padded)[:, None] & (o_d < STRIDE)[None, :]
    if SPLIT:
        # By the largest value first, so that no square leaves float32, then by the norm.
        b_scale, b_unit = power_of_two(tl.max(tl.abs(b_x), 1), 0)
        b_x = b_x * b_scale[:, None]
        b_scale, b_rest = power_of_two(tl.sqrt(tl.sum(b_x * b_x, 1)), 12)
        b_unit *= b_rest
        b_high, b_low = split_whole(b_x * b_scale[:, None])
        tl.store(p_high + o_x, b_high, mask=m_store)
        tl.store(p_low + o_x, b_low, mask=m_store)
        tl.store(p_unit + o_r, b_unit, mask=o_r < padded)
    else:
        tl.store(p_high + o_x, b_x.to(p_high.dtype.element_ty), mask=m_store)

    shift = tl.where(fixed, -LOG2_E / temperature, 0.0)
    tl.store(p_shift + o_r, tl.where(b_kind >= 0, shift, float("-inf")), mask=o_r < padded)
    if BACKWARD:
        b_log_z = scaled(tl.load(p_log_z + o_r, mask=m_r, other=float("inf")), LOG2_E, SPLIT)
        b_grad = tl.load(p_grad + o_r, mask=m_r, other=0.0)
        tl.store(p_weight + o_r, row_weights(b_grad, b_log_z, temperature, fixed), mask=o_r < padded)
        tl.store(p_log2_z + o_r, b_log_z, mask=o_r < padded)
    else:
        tl.store(p_inverse + o_r, b_inverse, mask=m_r)
    if tl.program_id(0) < row_blocks:
        block_edges(p_block, p_edges, tl.program_id(0), tokens, BLOCK_ROWS)
