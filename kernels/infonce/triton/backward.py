"""The gradients of the directions: tiles of W times the directions, every program owning a block of rows."""

from __future__ import annotations

import triton
import triton.language as tl

from ..._triton.language import constant, power_of_two, product
from ..._triton.language import split as split_float32
from .forward import plan, walk
from .primitives import (
    all_features,
    features,
    logits,
    one_shift,
    program_rows,
    row_factor,
    similarities,
    temperature_of,
    weights,
)

UNIT = constant(16384.0)  # the largest row weight in W, whatever the reduction: float16 would lose weights of 1 / N
TINY = constant(1e-30)


@triton.jit
def weight_unit(p_largest_grad, SCALED: tl.constexpr):
    """What row weights are multiplied with where W must fit float16: the largest one becomes UNIT."""
    unit = 1.0
    if SCALED:
        unit = UNIT / tl.maximum(tl.load(p_largest_grad), TINY)
    return unit


@triton.jit
def direction_unit(p_largest, SPLIT: tl.constexpr, NORMALIZE: tl.constexpr):
    """What units of split directions are multiplied with on their way into W: the largest one becomes 1 / 2."""
    unit = 1.0
    if SPLIT:
        if NORMALIZE:
            unit = 1024.0
        else:
            unit, _ = power_of_two(tl.load(p_largest), 11)
    return unit


@triton.jit
def _tile(
    b_d, b_slope, b_q, b_q_low, b_block, b_weight, b_log_z, o_r, tile, b_factor, unit, of_directions, columns,
    p_high, p_low, p_unit, p_shift, p_block, p_weight, p_log_z,
    STRIDE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr, OUT: tl.constexpr, COLUMNS: tl.constexpr,
    FIXED: tl.constexpr, SPLIT: tl.constexpr, WIDE: tl.constexpr, SLOPE: tl.constexpr, COMPARE: tl.constexpr,
):  # fmt: skip
    o_n = tile * COLUMNS + tl.arange(0, COLUMNS)
    b_k, b_k_low = b_q, b_q_low
    if not WIDE:
        b_k, b_k_low = all_features(p_high, p_low, o_n, STRIDE, CHUNK, SPLIT)
    b_s = similarities(b_q, b_q_low, b_k, b_k_low, o_r, o_n, p_high, p_low, STRIDE, CHUNK, SPLIT, WIDE)
    b_column_log_z = b_log_z
    if not FIXED:
        b_column_log_z = tl.load(p_log_z + o_n)
    b_s = logits(b_s, b_factor, p_unit, o_n, SPLIT)
    b_w = weights(
        b_s, b_weight[:, None], (tl.load(p_weight + o_n) * unit)[None, :],
        b_log_z[:, None], b_column_log_z[None, :], tl.load(p_shift + o_n)[None, :], FIXED,
    )  # fmt: skip
    if COMPARE:
        b_other = tl.load(p_block + o_n, mask=o_n < columns, other=-1)
        b_w = tl.where(b_block[:, None] == b_other[None, :], 0.0, b_w)
    if SLOPE:
        b_slope += tl.sum(b_w * b_s, 1)
    if SPLIT:
        b_w *= (tl.load(p_unit + o_n) * of_directions)[None, :]  # f is high + low times its unit
        b_high, b_low = split_float32(b_w)
    else:
        b_high = b_w.to(p_high.dtype.element_ty)
        b_low = b_high
    sums = ()
    for c in tl.static_range(BLOCK_D // OUT):
        if WIDE:
            b_f, b_f_low = features(p_high, p_low, o_n, tl.program_id(2) * BLOCK_D + c * OUT, STRIDE, OUT, SPLIT)
        else:
            b_f, b_f_low = b_k[c], b_k_low[c]
        sums = sums + (product(b_high, b_low, b_f, b_f_low, b_d[c], SPLIT),)  # noqa: RUF005  (no unpacking here)
    return sums, b_slope


@triton.jit
def _zeros(ROWS: tl.constexpr, BLOCK_D: tl.constexpr, OUT: tl.constexpr):
    return (tl.zeros([ROWS, OUT], tl.float32),) * (BLOCK_D // OUT)


@triton.jit
def _store(p_d, o_out, m_r, b_d, split, rows, STRIDE: tl.constexpr, BLOCK_D: tl.constexpr, OUT: tl.constexpr,
           ADD: tl.constexpr):  # fmt: skip
    """Stores the sums of this program's features or, ADD, adds them to what it has stored."""
    for c in tl.static_range(BLOCK_D // OUT):
        o_d = tl.program_id(2) * BLOCK_D + c * OUT + tl.arange(0, OUT)
        p_x = p_d + (split.to(tl.int64) * rows + o_out)[:, None] * STRIDE + o_d[None, :]
        b_sum = b_d[c]
        if ADD:
            b_sum += tl.load(p_x, mask=m_r[:, None], other=0.0)
        tl.store(p_x, b_sum, mask=m_r[:, None])


@triton.jit
def backward_kernel(
    p_high,  # (N + padding, STRIDE)
    p_low,
    p_unit,  # (N + padding,) see prepare_kernel
    p_shift,  # (N + padding,)
    p_block,  # (N,)
    p_edges,  # (row blocks, 4) see primitives.block_edges
    p_anchor,  # (R,)
    p_temperature,  # ()
    p_largest,  # () the largest norm of a token, where they are split and not normalised
    p_largest_grad,  # () likewise of the gradients, where W is SCALED
    p_weight,  # (N + padding,) see primitives.row_weights
    p_log_z,  # (N + padding,) log2 Z; unused with one shift
    p_d,  # (splits, R, STRIDE) sums of W f in the units of both
    p_slopes,  # (splits, R) sums of W s log2 e, where SLOPE
    rows,
    columns,
    splits,
    temperature,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STRIDE: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK_D: tl.constexpr,  # features of a program
    OUT: tl.constexpr,  # features of one product with W; CHUNK unless WIDE
    FLUSH: tl.constexpr,  # column tiles that are added up on the tensor cores where SPLIT
    SPLIT: tl.constexpr,
    WIDE: tl.constexpr,
    SCALED: tl.constexpr,
    FIXED: tl.constexpr,
    NORMALIZE: tl.constexpr,
    LEARNED: tl.constexpr,
    ANCHORED: tl.constexpr,
    SLOPE: tl.constexpr,
):
    """d_i = sum_j W_ij f_j over this program's columns, W made again from S.

    4 R N D operations (3.5 times that where SPLIT; WIDE makes S anew for every BLOCK_D features), R N powers of two.
    Reads N D numbers for every ROWS rows, writes D numbers a row and split.

    Tensor cores cut off what they add: n sums of one sign lose about n / 4 units in the last place. Where SPLIT, what
    a program has is therefore added to memory every FLUSH tiles, with rounding; and the temperature's gradient, which
    is left of large sums that cancel, is summed beside, in float32.
    """
    temperature = temperature_of(p_temperature, temperature, LEARNED)
    if one_shift(temperature, NORMALIZE) == FIXED:
        split = tl.program_id(1)
        unit = weight_unit(p_largest_grad, SCALED)
        of_directions = direction_unit(p_largest, SPLIT, NORMALIZE)
        o_out, m_r, o_r = program_rows(p_anchor, rows, ANCHORED, ROWS)
        b_factor = row_factor(p_unit, o_r, temperature, SPLIT)
        b_block = tl.load(p_block + o_r)
        b_weight = tl.load(p_weight + o_r) * unit
        b_log_z = tl.load(p_log_z + o_r)
        b_q, b_q_low = (), ()
        if not WIDE:
            b_q, b_q_low = all_features(p_high, p_low, o_r, STRIDE, CHUNK, SPLIT)
        begin, edge, inside, outside, after, end = plan(p_edges, split, splits, columns, ANCHORED, COLUMNS)
        b_slope = tl.zeros([ROWS], tl.float32)
        b_d = _zeros(ROWS, BLOCK_D, OUT)
        if SPLIT:
            _store(p_d, o_out, m_r, b_d, split, rows, STRIDE, BLOCK_D, OUT, False)
        compared = (inside - edge) + (after - outside)
        free = (edge - begin) + (end - after)
        for first in range(0, compared, FLUSH):
            for t in range(first, tl.minimum(first + FLUSH, compared)):
                b_d, b_slope = _tile(
                    b_d, b_slope, b_q, b_q_low, b_block, b_weight, b_log_z, o_r,
                    walk(t, edge, inside - edge, outside), b_factor, unit, of_directions, columns,
                    p_high, p_low, p_unit, p_shift, p_block, p_weight, p_log_z,
                    STRIDE, CHUNK, BLOCK_D, OUT, COLUMNS, FIXED, SPLIT, WIDE, SLOPE, True,
                )  # fmt: skip
            if SPLIT:
                _store(p_d, o_out, m_r, b_d, split, rows, STRIDE, BLOCK_D, OUT, True)
                b_d = _zeros(ROWS, BLOCK_D, OUT)
        for first in range(0, free, FLUSH):
            for t in range(first, tl.minimum(first + FLUSH, free)):
                b_d, b_slope = _tile(
                    b_d, b_slope, b_q, b_q_low, b_block, b_weight, b_log_z, o_r,
                    walk(t, begin, edge - begin, after), b_factor, unit, of_directions, columns,
                    p_high, p_low, p_unit, p_shift, p_block, p_weight, p_log_z,
                    STRIDE, CHUNK, BLOCK_D, OUT, COLUMNS, FIXED, SPLIT, WIDE, SLOPE, False,
                )  # fmt: skip
            if SPLIT:
                _store(p_d, o_out, m_r, b_d, split, rows, STRIDE, BLOCK_D, OUT, True)
                b_d = _zeros(ROWS, BLOCK_D, OUT)
        if not SPLIT:
            _store(p_d, o_out, m_r, b_d, split, rows, STRIDE, BLOCK_D, OUT, False)
        if SLOPE:  # alike in every block of features
            tl.store(p_slopes + split * rows + o_out, b_slope, mask=m_r)
