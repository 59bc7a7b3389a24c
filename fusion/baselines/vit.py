"""A small vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929) whose tokens lie within patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import TransformerBlock
from .maps import Shape

__all__ = ["VisionTransformer", "token_side"]


def token_side(patch_size: int, most: int) -> int:
    """The largest divisor of a patch's side that is at most ``most`` pixels: 10 for 50 pixels and at most 16."""
    return next(side for side in range(min(patch_size, most), 0, -1) if patch_size % side == 0)


class VisionTransformer(nn.Module):
    """One map of an image, of one vector a token.

    Args:
        channels, size: of an image: bands, and pixels (height, width).
        side: pixels of a token.
        dim, depth, heads: of the transformer; its feed-forwards are four times as wide.

    Attributes:
        shapes: of the one map that it returns.
    """

    def __init__(self, channels: int, size: tuple[int, int], side: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        rows, columns = size[0] // side, size[1] // side
        self.shapes: list[Shape] = [(dim, rows, columns)]
        self.embed = nn.Conv2d(channels, dim, side, side)
        self.position = nn.Parameter(torch.empty(1, rows * columns, dim).normal_(0, 0.02))
        self.blocks = nn.ModuleList(TransformerBlock(SelfAttention(dim, heads), dim, 4 * dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> one map (N, D, rows, columns)."""
        x = self.embed(images).flatten(2).mT + self.position  # (N, T, D)
        for block in self.blocks:
            x = block(x)
        return [self.norm(x).mT.unflatten(2, self.shapes[0][1:])]


class SelfAttention(nn.Module):
    """Plain multi-head self-attention of (N, T, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, T, D/heads) each
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
