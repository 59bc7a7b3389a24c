"""Quantization of vectors and series: look-ups, codebooks that learn, tokenizers."""

from .codebooks import VectorQuantizer, code_usage
from .composites import FiniteScalarQuantizer, ProductVectorQuantizer, ResidualVectorQuantizer
from .learning import kmeans, train_tokenizer
from .op import (
    bin_decode,
    bin_encode,
    code_decode,
    code_statistics,
    finite_scalar_quantize,
    nearest_code,
    vector_quantize,
)
from .patches import PatchTokenizer
from .tokenizers import MeanScaleBins, MuLaw, QuantileBins, SymbolicAggregate, UniformBins

__all__ = [
    "FiniteScalarQuantizer",
    "MeanScaleBins",
    "MuLaw",
    "PatchTokenizer",
    "ProductVectorQuantizer",
    "QuantileBins",
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
    "train_tokenizer",
    "vector_quantize",
]
