"""What several systems share: encodings of days, masked normalisations, the transformer block."""

from .masked import MaskedBatchNorm, MaskedGroupNorm, masked_mean, masked_softmax, standardise
from .positions import encode_days
from .transformer import DropPath, FeedForward, TransformerBlock

__all__ = [
    "DropPath",
    "FeedForward",
    "MaskedBatchNorm",
    "MaskedGroupNorm",
    "TransformerBlock",
    "encode_days",
    "masked_mean",
    "masked_softmax",
    "standardise",
]
