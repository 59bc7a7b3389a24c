"""The compiled CPU look-ups (csrc/cpu/quantize.cpp) behind the operators' signatures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..backends import implement
from ..operators import declare_native
from .eager import check_codes, check_edges, working_dtype

declare_native("nearest_code_cpp(Tensor x, Tensor codebook, bool cosine) -> Tensor")
declare_native("code_statistics_cpp(Tensor x, Tensor codes, int size) -> (Tensor, Tensor)")
declare_native("finite_scalar_quantize_cpp(Tensor z, int[] levels, bool sigmoid) -> (Tensor, Tensor)")
declare_native("finite_scalar_quantize_backward_cpp(Tensor grad, Tensor z, int[] levels, bool sigmoid) -> Tensor")
declare_native("bin_encode_cpp(Tensor values, Tensor edges) -> Tensor")
declare_native("bin_decode_cpp(Tensor codes, Tensor centres) -> (Tensor, int, int)")

DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def _refuses(*args: Tensor | object) -> str | None:
    values = next(a for a in args if isinstance(a, Tensor) and a.is_floating_point())
    return None if values.dtype in DTYPES else f"takes float32, float64 and bfloat16, not {values.dtype}"


def _refuses_centres(codes: Tensor, centres: Tensor) -> str | None:
    return None if centres.dtype in DTYPES[:2] else f"takes float32 and float64 centres, not {centres.dtype}"


def _rows(x: Tensor) -> Tensor:
    """(N, D) with contiguous rows."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


@implement("nearest_code", "cpp", refuses=_refuses)
def nearest_code(x: Tensor, codebook: Tensor, metric: str) -> Tensor:
    dtype = working_dtype(x, codebook)
    if dtype == torch.float64:  # a float64 codebook may tell apart what float32 cannot
        x = x.double()
    return torch.ops.fusion.nearest_code_cpp(_rows(x), _rows(codebook.to(dtype)), metric == "cosine")


@implement("code_statistics", "cpp", refuses=_refuses)
def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return torch.ops.fusion.code_statistics_cpp(_rows(x), codes.contiguous(), size)


@implement("finite_scalar_quantize", "cpp", refuses=_refuses)
def finite_scalar_quantize(z: Tensor, levels: Sequence[int], form: str) -> tuple[Tensor, Tensor]:
    rows = z.contiguous().view(-1, len(levels))
    quantized, codes = torch.ops.fusion.finite_scalar_quantize_cpp(rows, levels, form == "sigmoid")
    return quantized.view(z.shape), codes.view(z.shape[:-1])


@implement("finite_scalar_quantize_backward", "cpp", refuses=_refuses)
def finite_scalar_quantize_backward(grad: Tensor, z: Tensor, levels: Sequence[int], form: str) -> Tensor:
    rows = z.contiguous().view(-1, len(levels))
    grad = grad.to(z.dtype).contiguous().view(rows.shape)
    dz = torch.ops.fusion.finite_scalar_quantize_backward_cpp(grad, rows, levels, form == "sigmoid")
    return dz.view(z.shape)


@implement("bin_encode", "cpp", refuses=_refuses)
def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    check_edges(edges)
    if edges.dtype != torch.float64:
        edges = edges.to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    elif values.dtype == torch.bfloat16:
        values = values.float()
    return torch.ops.fusion.bin_encode_cpp(values.contiguous(), edges.contiguous()).view(values.shape)


@implement("bin_decode", "cpp", refuses=_refuses_centres)
def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    rows = centres.contiguous().view(centres.shape[0], -1)
    values, low, high = torch.ops.fusion.bin_decode_cpp(codes.contiguous(), rows)
    check_codes(low, high, centres.shape)
    return values.view(codes.shape + centres.shape[1:])
