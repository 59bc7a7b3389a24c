"""The op library: patch InfoNCE, relative-position attention and quantization as torch operators.

Importing it needs torch, numpy and einops, compiles nothing and touches no GPU.
"""

import importlib
from typing import Any

from .attention import RelativeAttention, euclidean_buckets, relative_attention
from .backends import BackendError, backends, use_backend
from .convolution import convolution_3x3
from .infonce import PatchInfoNCE, patch_info_nce, patch_info_nce_ragged
from .plain import plain_operators
from .pooling import pool_dates
from .quantize import (
    FiniteScalarQuantizer,
    MeanScaleBins,
    MuLaw,
    ProductVectorQuantizer,
    QuantileBins,
    ResidualVectorQuantizer,
    SymbolicAggregate,
    UniformBins,
    VectorQuantizer,
    bin_decode,
    bin_encode,
    finite_scalar_quantize,
    nearest_code,
    vector_quantize,
)

__all__ = [
    "BackendError",
    "FiniteScalarQuantizer",
    "MeanScaleBins",
    "MuLaw",
    "PatchInfoNCE",
    "ProductVectorQuantizer",
    "QuantileBins",
    "RelativeAttention",
    "ResidualVectorQuantizer",
    "SymbolicAggregate",
    "UniformBins",
    "VectorQuantizer",
    "backends",
    "bin_decode",
    "bin_encode",
    "convolution_3x3",
    "euclidean_buckets",
    "finite_scalar_quantize",
    "nearest_code",
    "patch_info_nce",
    "patch_info_nce_ragged",
    "plain_operators",
    "pool_dates",
    "relative_attention",
    "use_backend",
    "vector_quantize",
]


def __getattr__(name: str) -> Any:
    """``PatchTokenizer`` learns by gradient and is in :mod:`fusion.tokenizers`; its former place here still works."""
    if name != "PatchTokenizer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module("fusion.tokenizers").PatchTokenizer
