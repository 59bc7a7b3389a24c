"""Heads that label tiles: what a fine-tuned model says of a tile as a whole."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusion.data import TileBatch

from ..layers import masked_softmax
from .systems import config_of
from .vectors import BY_MODALITY, PARTS, Pool, every_token, pools_of, tile_vectors

__all__ = ["AttentionHead", "LinearHead", "MlpHead", "tile_head"]


class LinearHead(nn.Linear):
    """A linear layer on a vector of the tile, ``head(head.features(model, batch))``.

    Args:
        model: gives the vector; its configuration says how wide it is.
        outputs: K.
        pool: what the vector is, see :func:`fusion.training.vectors.tile_vectors`.
        dropout: of the vector.
    """

    def __init__(self, model: nn.Module, outputs: int, pool: Pool, dropout: float) -> None:
        super().__init__(_width(model, pool), outputs)
        self.pool, self.rate = pool, dropout

    def features(self, model: nn.Module, batch: TileBatch) -> Tensor:
        """(B, D); no layer of the head takes part, so that a frozen model costs no graph."""
        return _vectors(model, batch, self.pool)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K)."""
        return super().forward(F.dropout(features, self.rate, self.training))


class MlpHead(nn.Sequential):
    """Layer norm, a hidden layer of the model's width, GELU, a linear layer; otherwise as :class:`LinearHead`."""

    def __init__(self, model: nn.Module, outputs: int, pool: Pool, dropout: float) -> None:
        width, hidden = _width(model, pool), config_of(model).dim
        super().__init__(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))
        self.pool, self.rate = pool, dropout

    def features(self, model: nn.Module, batch: TileBatch) -> Tensor:
        """(B, D)."""
        return _vectors(model, batch, self.pool)

    def forward(self, features: Tensor) -> Tensor:
        """(B, K)."""
        out = F.dropout(features, self.rate, self.training)
        for layer in self:
            out = layer(out)
        return out


class AttentionHead(nn.Module):
    """Learned queries, one a head, weigh all tokens that the model has of a tile; a linear layer on their means.

    The tokens are those of :func:`fusion.training.vectors.every_token`, layer-normalised. Pooling with a learned query:
    Lee et al. 2019, Set Transformer (arXiv 1810.00825), Eq. 11, without its feed-forward layers.

    Args:
        heads: of the attention; must divide the model's width.
    """

    def __init__(self, model: nn.Module, outputs: int, dropout: float, heads: int = 4) -> None:
        super().__init__()
        width = config_of(model).dim
        self.heads = math.gcd(heads, width)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Parameter(torch.randn(self.heads, width // self.heads) * 0.02)  # near 0: a plain mean
        self.key, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.linear = nn.Linear(width, outputs)
        self.rate = dropout

    def features(self, model: nn.Module, batch: TileBatch) -> tuple[Tensor, Tensor]:
        """Tokens (B, N, D), and which there are (B, N) bool."""
        return every_token(model, batch)

    def forward(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """(B, K)."""
        tokens, valid = self.norm(features[0]), features[1]
        key = self.key(tokens).unflatten(-1, (self.heads, -1))  # (B, N, heads, D / heads)
        scores = torch.einsum("bnhd,hd->bnh", key, self.query) / math.sqrt(self.query.shape[1])
        weight = masked_softmax(scores, valid[..., None], dim=1)  # (B, N, heads)
        value = self.value(tokens).unflatten(-1, (self.heads, -1))
        pooled = torch.einsum("bnh,bnhd->bhd", weight, value).flatten(1)  # (B, D)
        out: Tensor = self.linear(F.dropout(pooled, self.rate, self.training))
        return out


def tile_head(
    name: Literal["linear", "mlp", "attention"], model: nn.Module, outputs: int, pool: Pool, dropout: float
) -> nn.Module:
    """The head ``name`` for a model of any system.

    Raises:
        ValueError: tokens of modalities are asked of a model that has none.
    """
    if name == "attention":
        return AttentionHead(model, outputs, dropout)
    return (LinearHead if name == "linear" else MlpHead)(model, outputs, pool, dropout)


def _width(model: nn.Module, pool: Pool) -> int:
    config, offered = config_of(model), pools_of(model)
    if pool not in offered:
        raise ValueError(
            f"Finetuning: features={pool!r} are of each modality, or of parts of the year of a series, which "
            f"{type(model).__name__} of {', '.join(m.name for m in config.modalities)} does not keep apart; use "
            f"{', '.join(map(repr, offered))}"
        )
    if pool in BY_MODALITY:
        return config.dim * len(config.modalities) * PARTS.get(pool, 1)
    return config.dim * (2 if pool == "both" else 1)


def _vectors(model: Any, batch: TileBatch, pool: Pool) -> Tensor:
    return tile_vectors(model, batch, pool, [m.name for m in config_of(model).modalities])
