"""Token fusion: task-agnostic fusion of images and time series by discrete tokens.

After "Quantizing Space and Time" (Basile et al., arXiv 2510.23118); what is the paper's and what our choice is told in
docs/token_fusion.md. Read in this order: ``tokens.py`` says what a token is, ``tile_tokenizer.py`` how values become
tokens (by the tokenizers of :mod:`fusion.tokenizers`), ``embedding.py`` and ``model.py`` are the transformer,
``objective.py`` (with ``cross_entropy.py``) says what is learned, ``masked_values.py`` (with ``views.py``) what else
can be, ``module.py`` how. ``generate.py`` (with ``decoding.py``) draws what is hidden, ``counterfactual.py`` (with
``edits.py``) asks what would be if, ``sensitivity.py`` what an answer hangs on. ``heads.py`` (with ``pooling.py``)
fine-tunes.
"""

from ..lazy import lazily
from ..tokenizers import register_tokenizer
from .config import TokenFusionConfig
from .masked_values import MaskedValues
from .model import Encoding, TokenFusion
from .objective import MaskedPrediction
from .tile_tokenizer import TileTokenizer
from .tokens import Layout, Tokens

__all__ = [
    "Encoding",
    "Layout",
    "MaskedPrediction",
    "MaskedValues",
    "TileTokenizer",
    "TokenFusion",
    "TokenFusionConfig",
    "TokenFusionPretraining",
    "Tokens",
    "register_tokenizer",
]

# Lightning takes seconds to import; the model does without.
__getattr__ = lazily(__name__, {"TokenFusionPretraining": "module"})
