"""What several systems share: encodings of tiles and days, masked normalisations, dropout, the transformer block."""

from .dropout import Dropout, relu_dropout
from .encoding import Encoding
from .masked import MaskedBatchNorm, MaskedGroupNorm, masked_mean, masked_softmax, standardise
from .positions import encode_days
from .transformer import AttentionBlock, DropPath, FeedForward, TransformerBlock

__all__ = [
    "AttentionBlock",
    "DropPath",
    "Dropout",
    "Encoding",
    "FeedForward",
    "MaskedBatchNorm",
    "MaskedGroupNorm",
    "TransformerBlock",
    "encode_days",
    "masked_mean",
    "masked_softmax",
    "relu_dropout",
    "standardise",
]
