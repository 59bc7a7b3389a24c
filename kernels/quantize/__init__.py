"""Quantization of vectors and series: nearest codes, finite scalars, bins."""

from .op import (
    bin_decode,
    bin_encode,
    code_statistics,
    finite_scalar_quantize,
    nearest_code,
    vector_quantize,
)

__all__ = [
    "bin_decode",
    "bin_encode",
    "code_statistics",
    "finite_scalar_quantize",
    "nearest_code",
    "vector_quantize",
]
