"""Quantization of NumPy arrays: for dask, ``xarray.apply_ufunc`` and loader workers, without tensors.

The same C++ as the torch operators, reading the arrays where they are (float32 or float64, C-contiguous; others are
copied), with the GIL released and the number of threads an argument. Needs a C++ compiler at first use.

Masked arrays and nullable columns of pandas are taken: what they mask or lack is missing, as NaN is.

    import xarray as xr
    from fusion.kernels import arrays

    codes = xr.apply_ufunc(
        arrays.bin_encode, cube["t2m"], kwargs={"edges": edges}, dask="parallelized", output_dtypes=["int64"]
    )
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import build, machine
from .from_numpy import floats, integers
from .quantize.checks import FORMS, METRICS, check_levels

__all__ = ["bin_decode", "bin_encode", "finite_scalar_quantize", "nearest_code"]


def nearest_code(
    x: ArrayLike, codebook: ArrayLike, *, metric: str = "l2", threads: int | None = None
) -> NDArray[np.int64]:
    """Index of the nearest code of every vector; see :func:`fusion.kernels.nearest_code`.

    Args:
        x: (..., D) float; a vector that holds a NaN is missing.
        codebook: (K, D) float, K >= 1.
        metric: ``"l2"`` or ``"cosine"``.
        threads: default: one a core, or ``OMP_NUM_THREADS``.

    Returns:
        int64 codes (...), -1 for missing vectors.

    Raises:
        TypeError: not floating point. ValueError: shapes that do not fit, an unknown metric, threads < 1.
    """
    x, codebook = _both("nearest_code", x, "codebook", codebook, "x")
    _check_choice("nearest_code", "metric", metric, METRICS)
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"nearest_code: codebook must be (K, D) with K, D >= 1, got {codebook.shape}")
    if x.ndim == 0 or x.shape[-1] != codebook.shape[1]:
        raise ValueError(f"nearest_code: x {x.shape} must end in the codebook's D={codebook.shape[1]}")
    dtype = np.promote_types(x.dtype, codebook.dtype)
    x, codebook = x.astype(dtype, copy=False), codebook.astype(dtype, copy=False)
    codes: NDArray[np.int64] = build.arrays().nearest_code(
        x, codebook, metric == "cosine", _threads("nearest_code", threads)
    )
    return codes


def finite_scalar_quantize(
    z: ArrayLike, levels: Sequence[int], *, form: str = "tanh", threads: int | None = None
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """Rounds every dimension to its levels; see :func:`fusion.kernels.finite_scalar_quantize`.

    Returns:
        quantized (..., D) in z's dtype, NaN where missing; int64 codes (...), -1 where missing.

    Raises:
        TypeError: not floating point. ValueError: ``levels`` does not fit z, an unknown form, threads < 1.
    """
    z = floats("finite_scalar_quantize", "z", z, missing=True)
    _check_choice("finite_scalar_quantize", "form", form, FORMS)
    levels = check_levels("finite_scalar_quantize", levels)
    if z.ndim == 0 or z.shape[-1] != len(levels):
        raise ValueError(f"finite_scalar_quantize: z {z.shape} needs one level count a dimension, got {levels}")
    threads = _threads("finite_scalar_quantize", threads)
    quantized, codes = build.arrays().finite_scalar_quantize(z, levels, form == "sigmoid", threads)
    return quantized, codes


def bin_encode(values: ArrayLike, edges: ArrayLike, *, threads: int | None = None) -> NDArray[np.int64]:
    """Code k where ``edges[k] <= v < edges[k+1]``, clamped to 0..K-1, -1 for NaN.

    Args:
        values: float, any shape.
        edges: (K+1,) float, strictly increasing.
        threads: default: one a core, or ``OMP_NUM_THREADS``.

    Raises:
        TypeError: not floating point. ValueError: edges are not (K+1,) or do not increase, threads < 1.
    """
    values, edges = _both("bin_encode", values, "edges", edges, "values")
    if edges.ndim != 1 or edges.size < 2:
        raise ValueError(f"bin_encode: edges must be (K+1,) with K >= 1, got {edges.shape}")
    falls = np.flatnonzero(~(edges[1:] > edges[:-1]))
    if falls.size:
        at = int(falls[0])
        raise ValueError(
            f"bin_encode: edges must increase strictly, but edges[{at}]={edges[at]} and edges[{at + 1}]={edges[at + 1]}"
        )
    edges = edges.astype(np.promote_types(values.dtype, edges.dtype), copy=False)
    codes: NDArray[np.int64] = build.arrays().bin_encode(values, edges, _threads("bin_encode", threads))
    return codes


def bin_decode(codes: ArrayLike, centres: ArrayLike, *, threads: int | None = None) -> NDArray[np.floating]:
    """``centres[codes]``, NaN where the code is -1.

    Args:
        codes: integer, any shape, in -1..K-1.
        centres: (K,) float.
        threads: default: one a core, or ``OMP_NUM_THREADS``.

    Raises:
        TypeError: codes are not integer, centres not float. ValueError: a code is out of range, threads < 1.
    """
    codes = integers("bin_decode", "codes", codes)
    centres = floats("bin_decode", "centres", centres, missing=False)
    if centres.ndim != 1 or centres.size < 1:
        raise ValueError(f"bin_decode: centres must be (K,) with K >= 1, got {centres.shape}")
    values: NDArray[np.floating]
    values, low, high = build.arrays().bin_decode(codes, centres, _threads("bin_decode", threads))
    if low < -1 or high >= centres.size:
        raise ValueError(f"bin_decode: codes must be in -1..{centres.size - 1}, got {low}..{high}")
    return values


def _both(op: str, x: ArrayLike, name: str, table: ArrayLike, of_x: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Values, of which some may be missing, and a table, of which none may."""
    return floats(op, of_x, x, missing=True), floats(op, name, table, missing=False)


def _threads(op: str, threads: int | None) -> int:
    if threads is None:
        asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
        return int(asked) if asked.isdecimal() and int(asked) > 0 else machine.cores()
    if threads < 1:
        raise ValueError(f"{op}: threads must be at least 1, got {threads}")
    return threads


def _check_choice(op: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {argument}={value!r} is not one of {', '.join(map(repr, choices))}")
