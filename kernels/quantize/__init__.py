"""Quantization of vectors and series: nearest codes and bins, codebooks that learn, deterministic tokenizers."""

from .clustering import kmeans
from .codebooks import VectorQuantizer, code_usage
from .composites import FiniteScalarQuantizer, ProductVectorQuantizer, ResidualVectorQuantizer
from .op import (
    bin_decode,
    bin_encode,
    code_decode,
    code_statistics,
    finite_scalar_quantize,
    nearest_code,
    vector_quantize,
)
from .quantizer import Quantizer
from .scaled import MeanScaleBins, SymbolicAggregate
from .tokenizers import MuLaw, QuantileBins, UniformBins

__all__ = [
    "FiniteScalarQuantizer",
    "MeanScaleBins",
    "MuLaw",
    "ProductVectorQuantizer",
    "QuantileBins",
    "Quantizer",
    "ResidualVectorQuantizer",
    "SymbolicAggregate",
    "UniformBins",
    "VectorQuantizer",
    "bin_decode",
    "bin_encode",
    "code_decode",
    "code_statistics",
    "code_usage",
    "finite_scalar_quantize",
    "kmeans",
    "nearest_code",
    "vector_quantize",
]
