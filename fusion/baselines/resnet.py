"""ResNet-18 (He et al. 2016, arXiv 1512.03385) with group norms: a tile never depends on the others of its batch."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from .maps import Shape

__all__ = ["ResNet"]

_PER_GROUP = 16  # channels of a group of the norms (Wu & He 2018, arXiv 1803.08494)
# Below this side the published first layers, which leave a quarter of it, would leave too little for four stages.
_POOLED_FROM = 64


class ResNet(nn.Module):
    """Maps of an image at the four stages of a ResNet-18.

    Args:
        channels, size: of an image: bands, and pixels (height, width). Small images keep their size in the first layer,
            and no stage halves a side of less than four pixels.
        width: channels of the first stage, doubled in each of the next three; 64 is published.

    Attributes:
        shapes: of the maps that it returns, from coarse to fine.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        large = min(size) >= _POOLED_FROM
        convolution = nn.Conv2d(channels, width, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.stem = nn.Sequential(convolution, _norm(width), nn.ReLU())
        if large:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
            size = _halved(_halved(size))
        self.stages = nn.ModuleList()
        self.shapes: list[Shape] = []
        before = width
        for level in range(4):
            dim, stride = width * 2**level, 2 if level and min(size) >= 4 else 1
            self.stages.append(nn.Sequential(BasicBlock(before, dim, stride), BasicBlock(dim, dim)))
            size, before = _halved(size) if stride == 2 else size, dim
            self.shapes.insert(0, (dim, *size))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> four maps from coarse to fine."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.insert(0, x)
        return maps


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual, through a 1x1 convolution where the shape changes."""

    def __init__(self, channels: int, dim: int, stride: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, dim, 3, stride, 1, bias=False), _norm(dim), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(dim, dim, 3, 1, 1, bias=False), _norm(dim))
        same = channels == dim and stride == 1
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(channels, dim, 1, stride, bias=False), _norm(dim))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(cast(Tensor, self.shortcut(x)) + self.second(self.first(x)))


def _norm(dim: int) -> nn.GroupNorm:
    return nn.GroupNorm(dim // _PER_GROUP, dim)


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return (size[0] + 1) // 2, (size[1] + 1) // 2
