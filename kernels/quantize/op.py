"""Quantization: the public functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..operators import call
from . import registration
from .checks import (
    FORMS,
    GRADIENTS,
    METRICS,
    check_choice,
    check_devices,
    check_float,
    check_levels,
    check_vectors,
    integer_codes,
)
from .reference import rotate

__all__ = [
    "FORMS",
    "GRADIENTS",
    "METRICS",
    "bin_decode",
    "bin_encode",
    "check_levels",
    "code_decode",
    "code_statistics",
    "finite_scalar_quantize",
    "nearest_code",
    "pass_gradient",
    "vector_quantize",
]


def nearest_code(x: Tensor, codebook: Tensor, *, metric: str = "l2") -> Tensor:
    """Index of the nearest code of every vector, without the N x K distances.

    Args:
        x: (..., D) float vectors. A vector that holds a NaN is missing.
        codebook: (K, D) float codes, K >= 1, finite: with a code that is not, nothing is nearest.
        metric: ``"l2"`` for the least Euclidean distance, ``"cosine"`` for the greatest cosine.

    Returns:
        int64 codes (...) in 0..K-1, the lowest index where codes tie; -1 for missing vectors, and for all where the
        codebook is not finite. A vector with an infinity is as far from all codes: 0.

    Distances are computed in float32 at least and relative to the codebook's mean, so that data with a large common
    offset (kelvin, pascal) finds its true neighbours. Memory beyond inputs and output: O(N + K).

    Raises:
        TypeError: a tensor is not floating point. ValueError: shapes do not fit, or the metric is unknown.
    """
    check_vectors("nearest_code", x, codebook, metric)
    x = _plain(x)
    rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    codes: Tensor = call(registration.nearest_code, rows, _plain(codebook), metric)
    return codes if x.ndim == 2 else codes.reshape(x.shape[:-1])


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
        missing; and the commitment loss, a scalar: mean over finite vectors and D of ``(x - sg(quantized))^2``, with
        a gradient to ``x``. It is 0 without any vector, and NaN where none is finite, as in a model that diverged.
        Weigh it yourself (0.25 in the VQ-VAE paper). Vectors that are not finite receive no gradient.

    Raises:
        TypeError, ValueError: as :func:`nearest_code`.
    """
    check_vectors("vector_quantize", x, codebook, metric)
    check_choice("vector_quantize", "gradient", gradient, GRADIENTS)
    codes = nearest_code(x, codebook, metric=metric)  # (...)
    rows = x.reshape(codes.numel(), x.shape[-1])
    quantized, commitment, _ = call(registration.quantize_rows, rows, codebook.detach(), codes.reshape(-1), gradient)
    return quantized.reshape(x.shape), codes, commitment


def pass_gradient(x: Tensor, quantized: Tensor, gradient: str) -> Tensor:
    """``quantized`` (..., D), bit for bit, with the gradient going to ``x`` (finite) in the way ``gradient`` names."""
    carrier = rotate(x, quantized) if gradient == "rotation" else x
    return quantized.detach() + (carrier - carrier.detach())  # what is added is 0


def code_statistics(x: Tensor, codes: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """How many vectors each code was given and their sum: what a moving-average codebook or k-means needs.

    Args:
        x: (..., D) float vectors; rows that are not finite do not count.
        codes: (...) integer in 0..size-1, or -1 for rows that do not count.
        size: K, the number of codes.

    Returns:
        counts (K,) and sums (K, D), float32 (float64 for float64 input). Deterministic: no atomic additions.

    Raises:
        TypeError: x is not floating point or codes are not integer. ValueError: shapes or devices do not fit each
        other, or ``size`` is negative.
    """
    check_float("code_statistics", x=x)
    codes = integer_codes("code_statistics", codes)
    check_devices("code_statistics", x=x, codes=codes)
    if size < 0:
        raise ValueError(f"code_statistics: size={size} is no number of codes; give K >= 0")
    if x.shape[:-1] != codes.shape:
        raise ValueError(
            f"code_statistics: x {tuple(x.shape)} needs codes {tuple(x.shape[:-1])}, got {tuple(codes.shape)}"
        )
    rows = codes.numel()
    counts, sums = call(registration.code_statistics, x.detach().reshape(rows, x.shape[-1]), codes.reshape(rows), size)
    return counts, sums


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
    check_float("finite_scalar_quantize", z=z)
    check_choice("finite_scalar_quantize", "form", form, FORMS)
    levels = check_levels("finite_scalar_quantize", levels)
    if z.ndim == 0 or z.shape[-1] != len(levels):
        raise ValueError(
            f"finite_scalar_quantize: z {tuple(z.shape)} needs one level count per value of its last dimension, "
            f"got levels={levels}"
        )
    quantized, codes = call(registration.finite_scalar_quantize, z, levels, form)
    return quantized, codes


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
    check_float("bin_encode", values=values, edges=edges)
    if edges.ndim != 1 or edges.shape[0] < 2:
        raise ValueError(f"bin_encode: edges must be (K+1,) with K >= 1, got {tuple(edges.shape)}")
    codes: Tensor = call(registration.bin_encode, _plain(values), _plain(edges))
    return codes


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
    check_float("bin_decode", centres=centres)
    if centres.ndim != 1 or centres.shape[0] < 1:
        raise ValueError(f"bin_decode: centres must be (K,) with K >= 1, got {tuple(centres.shape)}")
    codes = integer_codes("bin_decode", codes)
    check_devices("bin_decode", codes=codes, centres=centres)
    values: Tensor = call(registration.bin_decode, codes, centres)
    return values


def code_decode(codes: Tensor, codebook: Tensor) -> Tensor:
    """``codebook[codes]``, NaN where the code is -1; codes (...), codebook (K, D) -> (..., D).

    The codebook receives a gradient. Raises as :func:`bin_decode`.
    """
    check_float("code_decode", codebook=codebook)
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"code_decode: codebook must be (K, D) with K, D >= 1, got {tuple(codebook.shape)}")
    codes = integer_codes("code_decode", codes)
    check_devices("code_decode", codes=codes, codebook=codebook)
    vectors: Tensor = call(registration.bin_decode, codes, codebook)
    return vectors


def _plain(x: Tensor) -> Tensor:
    """Without a gradient; the very tensor where it needs none, so that what is remembered of it is found again."""
    return x.detach() if x.requires_grad and torch.is_grad_enabled() else x
