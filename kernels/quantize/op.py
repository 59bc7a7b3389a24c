"""The look-ups as torch operators: schemas, argument checks, gradients, and the public functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .._triton.device import refuses_device
from ..backends import implement
from ..operators import call, define, differentiable, under_autocast
from . import eager, native  # noqa: F401  (native registers its implementations)
from .reference import rotate

__all__ = [
    "bin_decode",
    "bin_encode",
    "code_decode",
    "code_statistics",
    "finite_scalar_quantize",
    "nearest_code",
    "vector_quantize",
]

METRICS = ("l2", "cosine")
GRADIENTS = ("straight-through", "rotation")
FORMS = ("tanh", "sigmoid")
LONGEST_ROW = 8192  # values, of kernels in Triton that keep rows whole

# ------------------------------------------------------------------------------------------------- operators


def _vector_statistics(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    dtype = eager.working_dtype(x)
    return x.new_empty(size, dtype=dtype), x.new_empty(size, x.shape[1], dtype=dtype)


_nearest_code = define(
    "nearest_code(Tensor x, Tensor codebook, str metric) -> Tensor",
    fake=lambda x, codebook, metric: x.new_empty(x.shape[0], dtype=torch.int64),
)
_quantize_rows = define(
    "quantize_rows(Tensor x, Tensor codebook, Tensor codes, str gradient) -> (Tensor, Tensor, Tensor)",
    fake=lambda x, codebook, codes, gradient: (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        x.new_empty((), dtype=eager.working_dtype(x)),
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
_code_statistics = define(
    "code_statistics(Tensor x, Tensor codes, int size) -> (Tensor, Tensor)",
    fake=lambda x, codes, size: _vector_statistics(x, size),
)
_finite_scalar_quantize = define(
    "finite_scalar_quantize(Tensor z, int[] levels, str form) -> (Tensor, Tensor)",
    fake=lambda z, levels, form: (torch.empty_like(z), z.new_empty(z.shape[:-1], dtype=torch.int64)),
)
_finite_scalar_quantize_backward = define(
    "finite_scalar_quantize_backward(Tensor grad, Tensor z, int[] levels, str form) -> Tensor",
    fake=lambda grad, z, levels, form: torch.empty_like(z),
)
_bin_encode = define(
    "bin_encode(Tensor values, Tensor edges) -> Tensor",
    fake=lambda values, edges: values.new_empty(values.shape, dtype=torch.int64),
)
_bin_decode = define(
    "bin_decode(Tensor codes, Tensor centres) -> Tensor",  # centres (K,) or (K, D)
    fake=lambda codes, centres: centres.new_empty(codes.shape + centres.shape[1:]),
)

for _operator in (
    _nearest_code,
    _quantize_rows,
    _quantize_rows_backward,
    _code_statistics,
    _finite_scalar_quantize,
    _finite_scalar_quantize_backward,
    _bin_encode,
    _bin_decode,
):
    _name = _operator._schema.name.removeprefix("fusion::")
    implement(_name, "eager")(getattr(eager, _name))
    under_autocast(_operator, casts=0)  # indices and statistics are computed from the inputs as they are


def _refuses_triton(*args: Any) -> str | None:
    """Look-ups on a GPU compute in float32, and keep rows in registers."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    if any(a.dtype == torch.float64 for a in tensors):
        return "computes in float32, and float64 was given"
    return refuses_device(tensors[0])


def _refuses_long_rows(*args: Any) -> str | None:
    longest = max(a.shape[-1] for a in args if isinstance(a, Tensor) and a.is_floating_point() and a.ndim > 1)
    if longest > LONGEST_ROW:
        return f"keeps a row in registers: at most {LONGEST_ROW} values, got {longest}"
    return _refuses_triton(*args)


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
    ("code_statistics", _refuses_long_rows),
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
    _, sums = call(_code_statistics, rows, codes.reshape(-1), ctx.shape[0])
    return None, sums.reshape(ctx.shape).to(ctx.dtype)


differentiable(_quantize_rows, save=_save_rows, gradients=_rows_backward)
differentiable(_finite_scalar_quantize, save=_save_scalar, gradients=_scalar_backward)
differentiable(_bin_decode, save=_save_decode, gradients=_decode_backward)

# ------------------------------------------------------------------------------------------- public functions


def nearest_code(x: Tensor, codebook: Tensor, *, metric: str = "l2") -> Tensor:
    """Index of the nearest code of every vector, without the N x K distances.

    Args:
        x: (..., D) float vectors. A vector that holds a NaN is missing.
        codebook: (K, D) float codes, K >= 1, finite.
        metric: ``"l2"`` for the least Euclidean distance, ``"cosine"`` for the greatest cosine.

    Returns:
        int64 codes (...) in 0..K-1, the lowest index where codes tie, -1 for missing vectors.

    Distances are computed in float32 at least and relative to the codebook's mean, so that data with a large common
    offset (kelvin, pascal) finds its true neighbours. Memory beyond inputs and output: O(N + K).

    Raises:
        TypeError: a tensor is not floating point. ValueError: shapes do not fit, or the metric is unknown.
    """
    _check_vectors("nearest_code", x, codebook, metric)
    x = _plain(x)
    if x.ndim == 2:
        return call(_nearest_code, x, _plain(codebook), metric)
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return call(_nearest_code, rows, _plain(codebook), metric).reshape(x.shape[:-1])


def vector_quantize(
    x: Tensor, codebook: Tensor, *, metric: str = "l2", gradient: str = "straight-through"
) -> tuple[Tensor, Tensor, Tensor]:
    """Replaces every vector by its nearest code, with a gradient for the encoder.

    Args:
        x: (..., D) float vectors. A vector that holds a NaN is missing.
        codebook: (K, D) float codes. Receives no gradient here: it learns by moving averages or by
            ``mse_loss(codebook[codes], x.detach())`` (:class:`VectorQuantizer` does either).
        metric: ``"l2"`` or ``"cosine"``, as in :func:`nearest_code`.
        gradient: of ``quantized`` with respect to ``x``: ``"straight-through"`` passes it on unchanged
            (van den Oord et al. 2017), ``"rotation"`` turns and scales it as the code turned and scaled x
            (Fifty et al. 2024, Eq. 4).

    Returns:
        quantized (..., D) in x's dtype, exactly the codes' values, NaN where missing; codes (...) int64, -1 where
        missing; and the commitment loss, a scalar: mean over finite vectors and D of ``(x - sg(quantized))^2``, 0 if
        there are none, with a gradient to ``x``. Weigh it yourself (0.25 in the VQ-VAE paper). Vectors that are not
        finite receive no gradient.

    Raises:
        TypeError, ValueError: as :func:`nearest_code`.
    """
    _check_vectors("vector_quantize", x, codebook, metric)
    _check_choice("vector_quantize", "gradient", gradient, GRADIENTS)
    codes = nearest_code(x, codebook, metric=metric)  # (...)
    rows = x.reshape(codes.numel(), x.shape[-1])
    quantized, commitment, _ = call(_quantize_rows, rows, codebook.detach(), codes.reshape(-1), gradient)
    return quantized.reshape(x.shape), codes, commitment


def pass_gradient(x: Tensor, quantized: Tensor, gradient: str) -> Tensor:
    """``quantized`` (..., D), bit for bit, with the gradient going to ``x`` (finite) in the way ``gradient`` names."""
    carrier = rotate(x, quantized) if gradient == "rotation" else x
    return quantized.detach() + (carrier - carrier.detach())  # what is added is 0


def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many vectors each code was given and their sum: what a moving-average codebook or k-means needs.

    Args:
        x: (..., D) float vectors; rows that are not finite do not count.
        codes: (...) int64 in 0..size-1, or -1 for rows that do not count.
        size: K, the number of codes.

    Returns:
        counts (K,) and sums (K, D), float32 (float64 for float64 input). Deterministic: no atomic additions.
    """
    if x.shape[:-1] != codes.shape:
        raise ValueError(
            f"code_statistics: x {tuple(x.shape)} needs codes {tuple(x.shape[:-1])}, got {tuple(codes.shape)}"
        )
    rows = codes.numel()
    return call(_code_statistics, x.detach().reshape(rows, x.shape[-1]), codes.reshape(rows), size)


def finite_scalar_quantize(z: Tensor, levels: Sequence[int], *, form: str = "tanh") -> tuple[Tensor, Tensor]:
    """Finite scalar quantization: every dimension is rounded to one of a few levels; no codebook, no search.

    Args:
        z: (..., D) float, unbounded. A vector that holds a NaN is missing.
        levels: D integers >= 2, levels a dimension. The product is the number of codes, at most 2^63 - 1.
        form: ``"tanh"``: ``round(tanh(z + shift) half - offset)`` scaled to [-1, 1] (Mentzer et al. 2023,
            Listing 1, eps 1e-3). ``"sigmoid"``: ``round(sigmoid(z) (L - 1)) / (L - 1)`` in [0, 1] (TerraMind).

    Returns:
        quantized (..., D) in z's dtype, NaN where missing; codes (...) int64, ``sum_j level_j prod_{i<j} L_i`` (the
        first dimension changes fastest), -1 where missing. The gradient takes rounding as the identity.

    Raises:
        TypeError: z is not floating point. ValueError: ``levels`` does not fit z or is out of range, unknown form.
    """
    _check_float("finite_scalar_quantize", z=z)
    _check_choice("finite_scalar_quantize", "form", form, FORMS)
    levels = check_levels("finite_scalar_quantize", levels)
    if z.ndim == 0 or z.shape[-1] != len(levels):
        raise ValueError(
            f"finite_scalar_quantize: z {tuple(z.shape)} needs one level count per value of its last dimension, "
            f"got levels={levels}"
        )
    return call(_finite_scalar_quantize, z, levels, form)


def bin_encode(values: Tensor, edges: Tensor) -> Tensor:
    """Code of the bin each value falls in: k where ``edges[k] <= v < edges[k+1]``, clamped to 0..K-1.

    Args:
        values: float, any shape. NaN is missing.
        edges: (K+1,) float, strictly increasing, K >= 1. Only the inner edges decide; values beyond the outer
            ones go to the first and last bin. Equally spaced edges are found by arithmetic, others by search.

    Returns:
        int64 codes, values' shape, in 0..K-1; -1 where missing.

    Raises:
        TypeError: not floating point. ValueError: edges are not (K+1,) or (checked on the CPU) do not increase.
    """
    _check_float("bin_encode", values=values, edges=edges)
    if edges.ndim != 1 or edges.shape[0] < 2:
        raise ValueError(f"bin_encode: edges must be (K+1,) with K >= 1, got {tuple(edges.shape)}")
    return call(_bin_encode, _plain(values), _plain(edges))


def bin_decode(codes: Tensor, centres: Tensor) -> Tensor:
    """``centres[codes]``, NaN where the code is -1 (missing).

    Args:
        codes: integer, any shape, in -1..K-1.
        centres: (K,) float; receives a gradient.

    Returns:
        values, codes' shape, centres' dtype.

    Raises:
        TypeError: codes are not integer or centres not floating point. ValueError: centres are not (K,), or (checked
        on the CPU; NaN on a GPU) a code is outside -1..K-1.
    """
    _check_float("bin_decode", centres=centres)
    if centres.ndim != 1 or centres.shape[0] < 1:
        raise ValueError(f"bin_decode: centres must be (K,) with K >= 1, got {tuple(centres.shape)}")
    return call(_bin_decode, _integer("bin_decode", codes), centres)


def code_decode(codes: Tensor, codebook: Tensor) -> Tensor:
    """``codebook[codes]``, NaN where the code is -1; codes (...), codebook (K, D) -> (..., D).

    The codebook receives a gradient. Raises as :func:`bin_decode`.
    """
    _check_float("code_decode", codebook=codebook)
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"code_decode: codebook must be (K, D) with K, D >= 1, got {tuple(codebook.shape)}")
    return call(_bin_decode, _integer("code_decode", codes), codebook)


# ---------------------------------------------------------------------------------------------------- checks


def _check_float(op: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{op}: {name} must be floating point, got {tensor.dtype}; convert with {name}.float()")
    devices = {str(t.device) for t in tensors.values()}
    if len(devices) > 1:
        raise ValueError(f"{op}: {', '.join(tensors)} must be on one device, got {', '.join(sorted(devices))}")


def _plain(x: Tensor) -> Tensor:
    """Without a gradient; the very tensor where it needs none, so that what is remembered of it is found again."""
    return x.detach() if x.requires_grad and torch.is_grad_enabled() else x


def _integer(op: str, codes: Tensor) -> Tensor:
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"{op}: codes must be integer, got {codes.dtype}")
    return codes.long()


def _check_choice(op: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {argument}={value!r} is not one of {', '.join(map(repr, choices))}")


def _check_vectors(op: str, x: Tensor, codebook: Tensor, metric: str) -> None:
    _check_float(op, x=x, codebook=codebook)
    _check_choice(op, "metric", metric, METRICS)
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"{op}: codebook must be (K, D) with K, D >= 1, got {tuple(codebook.shape)}")
    if x.ndim == 0 or x.shape[-1] != codebook.shape[1]:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} must end in the codebook's D={codebook.shape[1]} "
            f"(codebook {tuple(codebook.shape)}); transpose channels to the last dimension"
        )


def check_levels(op: str, levels: Sequence[int]) -> list[int]:
    """``levels`` as a list of ints, or a ValueError that says what is wrong."""
    levels = [int(n) for n in levels]
    if not levels or min(levels) < 2:
        raise ValueError(f"{op}: levels must be integers >= 2, got {levels}")
    if math.prod(levels) > 2**63 - 1:
        raise ValueError(f"{op}: levels {levels} make {math.prod(levels)} codes, more than int64 can number")
    return levels
