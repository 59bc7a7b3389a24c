"""Compiled quantization (csrc/cpu/quantize*.cpp, csrc/cuda/quantize.cu) behind the operators' signatures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..arguments import working_dtype
from ..backends import implement
from ..operators import declare_native
from .eager import check_codes, check_edges, contiguous_rows

_code_statistics_cpp = declare_native("code_statistics_cpp(Tensor x, Tensor codes, int size) -> (Tensor, Tensor)")
_finite_scalar_quantize_cpp = declare_native(
    "finite_scalar_quantize_cpp(Tensor z, int[] levels, bool sigmoid) -> (Tensor, Tensor)"
)
_finite_scalar_quantize_backward_cpp = declare_native(
    "finite_scalar_quantize_backward_cpp(Tensor grad, Tensor z, int[] levels, bool sigmoid) -> Tensor"
)
_bin_encode_cpp = declare_native("bin_encode_cpp(Tensor values, Tensor edges) -> Tensor")
_bin_encode_cuda = declare_native("bin_encode_cuda(Tensor values, Tensor edges) -> Tensor")
_nearest_code_cpp = declare_native("nearest_code_cpp(Tensor x, Tensor codebook, bool cosine) -> Tensor")
_quantize_rows_cpp = declare_native(
    "quantize_rows_cpp(Tensor x, Tensor codebook, Tensor codes) -> (Tensor, float, int)"
)
_quantize_rows_backward_cpp = declare_native(
    "quantize_rows_backward_cpp(Tensor grad, Tensor x, Tensor quantized, bool rotate, float pull) -> Tensor"
)
_bin_decode_cpp = declare_native("bin_decode_cpp(Tensor codes, Tensor centres) -> (Tensor, int, int)")

ALL = (torch.float32, torch.float64, torch.bfloat16)


def _takes(*dtypes: torch.dtype) -> Callable[..., str | None]:
    """A ``refuses`` that looks at the first floating-point tensor."""

    def refuses(*args: Any) -> str | None:
        dtype = next(a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point())
        return None if dtype in dtypes else f"takes {', '.join(map(str, dtypes))}, not {dtype}"

    return refuses


@implement("nearest_code", "cpp", refuses=_takes(*ALL))
def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    dtype = working_dtype(x, codebook)
    if dtype == torch.float64:  # a float64 codebook may tell apart what float32 cannot
        x = x.double()
    rows = contiguous_rows(x), contiguous_rows(codebook.to(dtype))
    codes: Tensor = _nearest_code_cpp(*rows, metric == "cosine")
    return codes


@implement("quantize_rows", "cpp", refuses=_takes(*ALL))
def quantize_rows(x: Tensor, codebook: Tensor, codes: Tensor, gradient: str) -> tuple[Tensor, Tensor, Tensor]:
    codebook = codebook.to(working_dtype(x)).contiguous()
    quantized, squares, finite = _quantize_rows_cpp(contiguous_rows(x), codebook, codes.contiguous())
    commitment = math.nan if x.shape[0] and not finite else squares / max(1, finite * x.shape[1])
    return quantized, x.new_tensor(commitment, dtype=codebook.dtype), codes.new_tensor(finite)


@implement("quantize_rows_backward", "cpp", refuses=_takes(*ALL))
def quantize_rows_backward(
    grad: Tensor, grad_commitment: Tensor, x: Tensor, quantized: Tensor, finite: Tensor, gradient: str
) -> Tensor:
    pull = 2 * float(grad_commitment) / max(1, int(finite) * x.shape[1])
    grad = grad.to(x.dtype).contiguous()
    dx: Tensor = _quantize_rows_backward_cpp(grad, contiguous_rows(x), quantized, gradient == "rotation", pull)
    return dx


@implement("bin_decode", "cpp", refuses=_takes(torch.float32, torch.float64))
def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    rows = centres.contiguous().view(centres.shape[0], -1)
    values: Tensor
    values, low, high = _bin_decode_cpp(codes.contiguous(), rows)
    check_codes(low, high, centres.shape)
    return values.view(codes.shape + centres.shape[1:])


@implement("code_statistics", "cpp", refuses=_takes(*ALL))
def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    counts, sums = _code_statistics_cpp(contiguous_rows(x), codes.contiguous(), size)
    return counts, sums


@implement("finite_scalar_quantize", "cpp", refuses=_takes(*ALL))
def finite_scalar_quantize(z: Tensor, levels: Sequence[int], form: str) -> tuple[Tensor, Tensor]:
    rows = z.contiguous().view(-1, len(levels))
    quantized, codes = _finite_scalar_quantize_cpp(rows, levels, form == "sigmoid")
    return quantized.view(z.shape), codes.view(z.shape[:-1])


@implement("finite_scalar_quantize_backward", "cpp", refuses=_takes(*ALL))
def finite_scalar_quantize_backward(grad: Tensor, z: Tensor, levels: Sequence[int], form: str) -> Tensor:
    rows = z.contiguous().view(-1, len(levels))
    grad = grad.to(z.dtype).contiguous().view(rows.shape)
    dz: Tensor = _finite_scalar_quantize_backward_cpp(grad, rows, levels, form == "sigmoid")
    return dz.view(z.shape)


@implement("bin_encode", "cpp", refuses=_takes(*ALL))
def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    check_edges(edges)
    if edges.dtype == torch.float64 and values.dtype == torch.bfloat16:
        values = values.float()
    codes: Tensor = _bin_encode_cpp(values.contiguous(), _edges(values, edges))
    return codes.view(values.shape)


@implement("bin_encode", "cuda", refuses=_takes(*ALL))
def bin_encode_cuda(values: Tensor, edges: Tensor) -> Tensor:
    codes: Tensor = _bin_encode_cuda(values.contiguous(), _edges(values, edges))
    return codes.view(values.shape)


def _edges(values: Tensor, edges: Tensor) -> Tensor:
    """In float64 where either is, else in float32."""
    return edges.to(torch.float64 if torch.float64 in (values.dtype, edges.dtype) else torch.float32).contiguous()
