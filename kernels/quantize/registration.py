"""The operators of quantization in torch: schemas, which backend runs what, gradients and autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..arguments import working_dtype
from ..backends import implement
from ..operators import call, define, differentiable, not_differentiable_twice, under_autocast
from . import eager, native  # noqa: F401  (native registers its implementations)

__all__ = [
    "bin_decode",
    "bin_encode",
    "code_statistics",
    "finite_scalar_quantize",
    "nearest_code",
    "quantize_rows",
]

LONGEST_ROW = 8192  # values, of kernels in Triton that keep rows whole


def _vector_statistics(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(x)
    return x.new_empty(size, dtype=dtype), x.new_empty(size, x.shape[1], dtype=dtype)


nearest_code = define(
    "nearest_code(Tensor x, Tensor codebook, str metric) -> Tensor",
    fake=lambda x, codebook, metric: x.new_empty(x.shape[0], dtype=torch.int64),
)
quantize_rows = define(
    "quantize_rows(Tensor x, Tensor codebook, Tensor codes, str gradient) -> (Tensor, Tensor, Tensor)",
    fake=lambda x, codebook, codes, gradient: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty((), dtype=working_dtype(x)),
        codes.new_empty(()),
    ),
)
_quantize_rows_backward = define(
    "quantize_rows_backward(Tensor grad, Tensor grad_commitment, Tensor x, Tensor quantized, Tensor finite, "
    "str gradient) -> Tensor",
    fake=lambda grad, grad_commitment, x, quantized, finite, gradient: torch.empty_like(
        x, memory_format=torch.contiguous_format
    ),
)
code_statistics = define(
    "code_statistics(Tensor x, Tensor codes, int size) -> (Tensor, Tensor)",
    fake=lambda x, codes, size: _vector_statistics(x, size),
)
finite_scalar_quantize = define(
    "finite_scalar_quantize(Tensor z, int[] levels, str form) -> (Tensor, Tensor)",
    fake=lambda z, levels, form: (torch.empty_like(z), z.new_empty(z.shape[:-1], dtype=torch.int64)),
)
_finite_scalar_quantize_backward = define(
    "finite_scalar_quantize_backward(Tensor grad, Tensor z, int[] levels, str form) -> Tensor",
    fake=lambda grad, z, levels, form: torch.empty_like(z),
)
bin_encode = define(
    "bin_encode(Tensor values, Tensor edges) -> Tensor",
    fake=lambda values, edges: values.new_empty(values.shape, dtype=torch.int64),
)
bin_decode = define(
    "bin_decode(Tensor codes, Tensor centres) -> Tensor",  # centres (K,) or (K, D)
    fake=lambda codes, centres: centres.new_empty(codes.shape + centres.shape[1:]),
)

for _operator in (
    nearest_code,
    quantize_rows,
    _quantize_rows_backward,
    code_statistics,
    finite_scalar_quantize,
    _finite_scalar_quantize_backward,
    bin_encode,
    bin_decode,
):
    _name = _operator._schema.name.removeprefix("fusion::")
    implement(_name, "eager")(getattr(eager, _name))
    under_autocast(_operator, casts=0)  # indices and statistics are computed from the inputs as they are


def _refuses_triton(*args: Any) -> str | None:
    """These kernels compute in float32, and keep rows in registers."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if any(a.dtype == torch.float64 for a in tensors):
        return "computes in float32, and float64 was given"
    return refuses_device(tensors[0])


def _refuses_long_rows(*args: Any) -> str | None:
    longest = max(a.shape[-1] for a in args if isinstance(a, Tensor) and a.is_floating_point() and a.ndim > 1)
    if longest > LONGEST_ROW:
        return f"keeps a row in registers: at most {LONGEST_ROW} values, got {longest}"
    return _refuses_triton(*args)


def _refuses_statistics(x: Tensor, codes: Tensor, size: int) -> str | None:
    if size * x.shape[1] >= 1 << 31:
        return f"numbers sums in 32 bits, which {size} codes of {x.shape[1]} values exceed"
    return _refuses_long_rows(x, codes)


def _refuses_scalars(*args: Any) -> str | None:
    levels = next(a for a in args if isinstance(a, (list, tuple)))
    if max(levels) >= 2**22:
        return f"rounds to less than 2^22 levels of a dimension, got {max(levels)}"
    return _refuses_triton(*args)


def _refuses_large_codebook(x: Tensor, codebook: Tensor, metric: str) -> str | None:
    if codebook.numel() > 2**29:
        return f"addresses a codebook by 32 bits, got {tuple(codebook.shape)}"
    return _refuses_triton(x, codebook)


def _refuses_bins(values: Tensor, edges: Tensor) -> str | None:
    return _refuses_triton(values)  # float64 edges separate float32 values as float32 edges do, once rounded up


def _refuses_decode(codes: Tensor, centres: Tensor) -> str | None:
    return refuses_device(codes)  # copies, in any dtype


def _implement_in_triton(name: str, refuses: Callable[..., str | None]) -> None:
    @implement(name, "triton", refuses=refuses)
    def run(*args: Any) -> Any:
        from .triton import launch

        return getattr(launch, name)(*args)


for _name, _refuses in (
    ("nearest_code", _refuses_large_codebook),
    ("quantize_rows", _refuses_long_rows),
    ("quantize_rows_backward", _refuses_long_rows),
    ("code_statistics", _refuses_statistics),
    ("finite_scalar_quantize", _refuses_scalars),
    ("finite_scalar_quantize_backward", _refuses_scalars),
    ("bin_encode", _refuses_bins),
    ("bin_decode", _refuses_decode),
):
    _implement_in_triton(_name, _refuses)


def _save_rows(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _, ctx.gradient = inputs
    quantized, _, finite = output
    ctx.save_for_backward(x, quantized, finite)


def _rows_backward(ctx: Any, grad: Tensor, grad_commitment: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
    x, quantized, finite = ctx.saved_tensors
    return call(_quantize_rows_backward, grad, grad_commitment, x, quantized, finite, ctx.gradient), None, None, None


def _save_scalar(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    z, ctx.levels, ctx.form = inputs
    ctx.save_for_backward(z)


def _scalar_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor, None, None]:
    (z,) = ctx.saved_tensors
    return call(_finite_scalar_quantize_backward, grad.contiguous(), z, ctx.levels, ctx.form), None, None


def _save_decode(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    codes, centres = inputs
    ctx.shape, ctx.dtype = centres.shape, centres.dtype
    ctx.save_for_backward(codes)


def _decode_backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
    (codes,) = ctx.saved_tensors
    rows = grad.reshape(codes.numel(), ctx.shape[1] if len(ctx.shape) > 1 else 1)
    codes = codes.reshape(-1)
    _, sums = call(code_statistics, rows, codes, ctx.shape[0])
    # Statistics leave rows out that are not finite; of a gradient that went wrong the codes' owner has to hear.
    last = torch.where((codes < 0) | rows.isfinite().all(1), ctx.shape[0], codes)
    wrong = last.new_zeros(ctx.shape[0] + 1, dtype=torch.bool).index_fill(0, last, True)[:-1]
    return None, sums.masked_fill(wrong[:, None], torch.nan).reshape(ctx.shape).to(ctx.dtype)


def _save_statistics(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, codes, size = inputs
    ctx.save_for_backward(codes, (codes >= 0) & (codes < size) & x.isfinite().all(1))
    ctx.dtype = x.dtype


def _statistics_backward(ctx: Any, _: Any, grad_sums: Tensor) -> tuple[Tensor, None, None]:
    codes, used = ctx.saved_tensors
    rows = grad_sums[torch.where(used, codes, 0)]
    return torch.where(used[:, None], rows, 0).to(ctx.dtype), None, None


def _forward_mode(op: str, instead: str) -> str:
    return (
        f"{op} has no forward-mode derivative (torch.func.jvp, jacfwd, torch.autograd.forward_ad): take reverse mode "
        f"(torch.func.vjp, grad, jacrev){instead}"
    )


_OF_VECTORS = ", or use fusion.kernels.quantize.reference.vector_quantize, which torch can differentiate in any way"
_OF_SCALARS = (
    ", or use fusion.kernels.quantize.reference.finite_scalar_quantize, which torch can differentiate in any way"
)
differentiable(
    quantize_rows,
    save=_save_rows,
    gradients=_rows_backward,
    forward_mode=_forward_mode("vector_quantize", _OF_VECTORS),
)
not_differentiable_twice(
    _quantize_rows_backward,
    "vector_quantize has no second derivative (torch.func.hessian, create_graph=True): take the first alone"
    + _OF_VECTORS,
)
differentiable(
    finite_scalar_quantize,
    save=_save_scalar,
    gradients=_scalar_backward,
    forward_mode=_forward_mode("finite_scalar_quantize", _OF_SCALARS),
)
not_differentiable_twice(
    _finite_scalar_quantize_backward,
    "finite_scalar_quantize has no second derivative (torch.func.hessian, create_graph=True): take the first alone"
    + _OF_SCALARS,
)
differentiable(
    bin_decode, save=_save_decode, gradients=_decode_backward, forward_mode=_forward_mode("bin_decode, code_decode", "")
)
# Of the sums alone, and for the second derivative of bin_decode: the public code_statistics has no gradient.
differentiable(
    code_statistics,
    save=_save_statistics,
    gradients=_statistics_backward,
    forward_mode=_forward_mode("code_statistics", ""),
)
