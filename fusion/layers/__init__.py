"""What several systems share: standardised inputs, encodings of tiles and days, attention over dates, masked
normalisations, dropout, the transformer block."""

from .dropout import Dropout, relu_dropout
from .encoding import Encoding
from .hidden_dates import draw_hidden_dates
from .inputs import Standardisation
from .masked import MaskedBatchNorm, MaskedGroupNorm, masked_mean, masked_softmax, standardise
from .positions import encode_days
from .temporal import TemporalAttention
from .transformer import AttentionBlock, DropPath, FeedForward, TransformerBlock

__all__ = [
    "AttentionBlock",
    "DropPath",
    "Dropout",
    "Encoding",
    "FeedForward",
    "MaskedBatchNorm",
    "MaskedGroupNorm",
    "Standardisation",
    "TemporalAttention",
    "TransformerBlock",
    "draw_hidden_dates",
    "encode_days",
    "masked_mean",
    "masked_softmax",
    "relu_dropout",
    "standardise",
]
