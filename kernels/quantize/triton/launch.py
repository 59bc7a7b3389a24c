"""Starts the kernels: tiles, grids, and what is prepared of a codebook and remembered while it stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..._triton.device import Tile, architecture, interpreting
from ..._triton.launch import launch
from ...memory import remember, remember_numbers
from ..eager import contiguous_rows
from .bins import decode_kernel, decode_rows_kernel, encode_kernel, plan_kernel
from .codebook import columns_kernel, split_kernel
from .nearest import nearest_kernel
from .rows import commitment_kernel, rows_backward_kernel, rows_kernel
from .scalars import scalars_backward_kernel, scalars_kernel
from .statistics import add_kernel, finish_kernel, mark_kernel
from .tiles import INTERPRETED, block, row_block, tile_for

__all__ = [
    "bin_decode",
    "bin_encode",
    "code_statistics",
    "finite_scalar_quantize",
    "finite_scalar_quantize_backward",
    "nearest_code",
    "quantize_rows",
    "quantize_rows_backward",
]

_PARTS = 2 if interpreting() else 32  # of a codebook, for the sums of its columns
_CODES = 32  # of a block in the kernels that prepare


class Prepared(NamedTuple):
    """A codebook as ``nearest_kernel`` takes it; see ``split_kernel``."""

    high: Tensor
    low: Tensor
    bias: Tensor
    centre: Tensor
    norm: Tensor
    exact: Tensor | None  # None: the codebook itself, which what is remembered for it must not keep alive


def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    rows, dim = x.shape
    nearest = torch.empty(rows, dtype=torch.int64, device=x.device)
    if rows == 0:
        return nearest
    x = contiguous_rows(x)
    cosine = metric == "cosine"
    tile = INTERPRETED if interpreting() else tile_for(architecture(x.device), dim)
    p = _remembered(codebook, ("nearest", cosine, tile), lambda: prepare(codebook, cosine, tile))
    exact = p.exact if cosine else contiguous_rows(codebook)
    launch(nearest_kernel, (triton.cdiv(rows, tile.rows),),
        x, p.high, p.low, p.bias, p.centre, p.norm, exact, nearest,
        rows, codebook.shape[0], p.norm.shape[0] - 1, dim, x.stride(0), exact.stride(0),
        D=dim, ROWS=tile.rows, CODES=tile.columns, DEPTH=tile.depth, COSINE=cosine,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return nearest


def prepare(codebook: Tensor, cosine: bool, tile: Tile) -> Prepared:
    """Codes without their mean, split, with their biases: two kernels."""
    codebook = contiguous_rows(codebook)
    size, dim = codebook.shape
    depth = min(tile.depth, 64)
    codes = max(_CODES, tile.columns) if interpreting() else _CODES
    programs = triton.cdiv(triton.cdiv(size, tile.columns) * tile.columns, codes)
    held, padded = programs * codes, triton.cdiv(dim, tile.depth) * tile.depth
    sums = codebook.new_empty(4, _PARTS, dim, dtype=torch.float64)
    split = codebook.new_empty(2, held, padded, dtype=torch.float16)
    numbers = codebook.new_empty(held + dim + 1 + programs, dtype=torch.float32)
    bias, centre, norm = numbers.split([held, dim, 1 + programs])
    exact = codebook.new_empty(size, dim, dtype=torch.float32) if cosine else None
    shape = {"D": dim, "CODES": codes, "DEPTH": depth, "PARTS": _PARTS, "COSINE": cosine}
    launch(columns_kernel, (_PARTS,), codebook, sums, size, codebook.stride(0), **shape)
    launch(split_kernel, (programs,),
        codebook, sums, split[0], split[1], bias, centre, exact if cosine else centre, norm,
        size, codebook.stride(0), **shape,
    )  # fmt: skip
    return Prepared(split[0], split[1], bias, centre, norm, exact)


def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    codes = torch.empty(values.shape, dtype=torch.int64, device=values.device)
    count, bins = values.numel(), edges.shape[0] - 1
    if count == 0:
        return codes
    inner, plan = _remembered(edges, "bins", lambda: _plan(edges))
    together = block()
    launch(encode_kernel, (triton.cdiv(count, together),),
        values.contiguous(), inner, plan, codes, count, bins, LEVELS=(bins - 1).bit_length(), BLOCK=together,
    )  # fmt: skip
    return codes


def _plan(edges: Tensor) -> tuple[Tensor, Tensor]:
    bins = edges.shape[0] - 1
    size = triton.next_power_of_2(bins)
    numbers = edges.new_empty(size + 3, dtype=torch.float32)
    launch(plan_kernel, (1,), edges, numbers, numbers[size:], bins, edges.stride(0), SIZE=size, BLOCK=1024)
    return numbers[:size], numbers[size:]


def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    values = torch.empty(codes.shape + centres.shape[1:], dtype=centres.dtype, device=centres.device)
    count, size = codes.numel(), centres.shape[0]
    if values.numel() == 0:
        return values
    codes = codes.contiguous()
    if centres.ndim == 1:
        together = block()
        launch(decode_kernel, (triton.cdiv(count, together),),
            codes, centres.contiguous(), values, count, size, BLOCK=together,
        )  # fmt: skip
        return values
    centres = contiguous_rows(centres)
    dim = centres.shape[1]
    columns = min(512, triton.next_power_of_2(dim))
    rows = max(1, block() // columns)
    launch(decode_rows_kernel, (triton.cdiv(count, rows), triton.cdiv(dim, columns)),
        codes, centres, values, count, size, centres.stride(0), D=dim, ROWS=rows, COLUMNS=columns,
    )  # fmt: skip
    return values


def finite_scalar_quantize(z: Tensor, levels: Sequence[int], form: str) -> tuple[Tensor, Tensor]:
    z = z.contiguous()
    quantized = torch.empty_like(z)
    codes = torch.empty(z.shape[:-1], dtype=torch.int64, device=z.device)
    if codes.numel() == 0:
        return quantized, codes
    constant, place = _scalars(tuple(levels), form, z.device)
    shape, grid = row_block(len(levels), codes.numel())
    launch(scalars_kernel, grid,
        z, constant, place, quantized, codes, codes.numel(),
        **shape, SIGMOID=form == "sigmoid", WIDE=math.prod(levels) > 2**31 - 1,
    )  # fmt: skip
    return quantized, codes


def finite_scalar_quantize_backward(grad: Tensor, z: Tensor, levels: Sequence[int], form: str) -> Tensor:
    z = z.contiguous()
    dz = torch.empty_like(z)
    rows = z.numel() // len(levels)
    if rows == 0:
        return dz
    constant, _ = _scalars(tuple(levels), form, z.device)
    shape, grid = row_block(len(levels), rows)
    launch(scalars_backward_kernel, grid, grad.contiguous(), z, constant, dz, rows, **shape, SIGMOID=form == "sigmoid")
    return dz


def _scalars(levels: tuple[int, ...], form: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """What ``scalars_kernel`` needs of every dimension: (5, D) float32, (D,) int64."""

    def make() -> tuple[Tensor, Tensor]:
        columns: list[tuple[float, ...]] = []
        for size in levels:
            if form == "sigmoid":
                columns.append((0.0, size - 1, 0.0, 0.0, size - 1))
                continue
            half, offset = (size - 1) * (1 - 1e-3) / 2, 0.0 if size % 2 else 0.5
            columns.append((math.tan(offset / half), half, offset, -(size // 2), size // 2))
        place = [math.prod(levels[:d]) for d in range(len(levels))]
        constant = torch.tensor(columns, dtype=torch.float32).T.contiguous()
        return constant.to(device), torch.tensor(place, dtype=torch.int64).to(device)

    return remember_numbers(("finite_scalar_quantize", levels, form), device, make)


def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    x, codes = contiguous_rows(x), codes.contiguous()
    rows, dim = x.shape
    counts = torch.empty(size, dtype=torch.float32, device=x.device)
    sums = torch.empty(size, dim, dtype=torch.float32, device=x.device)
    # One tensor to be zeroed: counts, the largest value's bits, sums.
    fixed = torch.zeros(size + 1 + size * dim, dtype=torch.int64, device=x.device)
    fixed_counts, largest, fixed_sums = fixed, fixed[size:], fixed[size + 1 :]
    shift = min(22, 38 - max(1, rows - 1).bit_length())  # all rows may fall to one code
    if rows:
        used = torch.empty(rows, dtype=torch.int32, device=x.device)
        shape, grid = row_block(dim, rows)
        largest_bits = largest.view(torch.int32)
        launch(mark_kernel, grid, x, codes, used, fixed_counts, largest_bits, rows, size, x.stride(0), **shape)
        launch(add_kernel, grid,
            x, used, largest_bits, fixed_sums, rows, x.stride(0), shift, float(2**shift), **shape,
        )  # fmt: skip
    values, together = max(size, size * dim), 1024
    launch(finish_kernel, (triton.cdiv(values, together),),
        fixed_counts, fixed_sums, largest.view(torch.int32), counts, sums,
        size, size * dim, float(2**shift), BLOCK=together,
    )  # fmt: skip
    return counts, sums


def quantize_rows(x: Tensor, codebook: Tensor, codes: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    x, codebook = contiguous_rows(x), contiguous_rows(codebook)
    rows, dim = x.shape
    quantized = torch.empty(rows, dim, dtype=x.dtype, device=x.device)
    commitment = torch.empty((), dtype=torch.float32, device=x.device)
    finite = torch.empty((), dtype=torch.int64, device=x.device)
    shape, (programs,) = row_block(dim, rows)
    parts = torch.empty(2, programs, dtype=torch.float32, device=x.device)
    if rows:
        launch(rows_kernel, (programs,),
            x, codebook, codes.contiguous(), quantized, parts, rows, x.stride(0), codebook.stride(0), **shape,
        )  # fmt: skip
    launch(commitment_kernel, (1,), parts, commitment, finite, programs, dim, BLOCK=1024)
    return quantized, commitment, finite


def quantize_rows_backward(
    grad: Tensor, grad_commitment: Tensor, x: Tensor, quantized: Tensor, finite: Tensor, gradient: str
) -> Tensor:
    x, grad = contiguous_rows(x), contiguous_rows(grad)
    rows, dim = x.shape
    dx = torch.empty(rows, dim, dtype=x.dtype, device=x.device)
    if rows:
        shape, grid = row_block(dim, rows)
        launch(rows_backward_kernel, grid,
            grad, grad_commitment, x, quantized, finite, dx, rows, grad.stride(0), x.stride(0),
            **shape, ROTATION=gradient == "rotation",
        )  # fmt: skip
    return dx


def _remembered(tensor: Tensor, key: Hashable, make: Callable[[], Any]) -> Any:
    """As ``remember``, but anew in every replay of a CUDA graph: the tensor may change between two of them."""
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        return make()
    return remember((tensor,), key, make)
