"""The pre-norm residual block, with whatever attention a system brings."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout

__all__ = ["AttentionBlock", "DropPath", "FeedForward", "TransformerBlock"]


class DropPath(nn.Module):
    """Drops a residual branch for whole samples (stochastic depth, Huang et al. 2016)."""

    def __init__(self, probability: float = 0.0) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        keep = x.new_ones(x.shape[0], *(1,) * (x.ndim - 1))
        return x * F.dropout(keep, self.probability)

    def extra_repr(self) -> str:
        return f"probability={self.probability:g}"


class FeedForward(nn.Module):
    """Linear, GELU, dropout, linear, dropout on the last axis."""

    def __init__(self, dim: int, mlp_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, mlp_dim)
        self.contract = nn.Linear(mlp_dim, dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.contract(self.dropout(F.gelu(self.expand(x)))))


class AttentionBlock(nn.Module):
    """The parts of a pre-norm block: norm, attention, norm, feed-forward, and what is dropped of the branches."""

    def __init__(
        self, attention: nn.Module, dim: int, mlp_dim: int, dropout: float = 0.0, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(dim, eps=1e-6)
        self.feed_forward = FeedForward(dim, mlp_dim, dropout)
        self.dropout = Dropout(dropout)
        self.drop_path = DropPath(drop_path)


class TransformerBlock(AttentionBlock):
    """x + dropout(attention(norm(x))), then x + feed_forward(norm(x)), each branch under drop-path.

    ``attention`` is any module (B, L, D) -> (B, L, D); further arguments of ``forward`` go to it.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        attended = self.attention(self.attention_norm(x), *args, **kwargs)  # (B, L, D)
        x = x + self.drop_path(self.dropout(attended))
        return x + self.drop_path(self.feed_forward(self.feed_forward_norm(x)))
