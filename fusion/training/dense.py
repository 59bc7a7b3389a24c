"""Heads that label pixels: what a fine-tuned model says of every pixel of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from fusion.data import TileBatch

from .systems import config_of

__all__ = ["DenseHead", "PatchHead", "PyramidHead", "dense_head"]


class DenseHead(nn.Module):
    """Maps of K outputs from what a model knows of a batch: ``head(head.features(model, batch))``."""

    def features(self, model: nn.Module, batch: TileBatch) -> list[Tensor]:
        """What the head needs of a model; no layer of the head takes part, so that a frozen model costs no graph."""
        raise NotImplementedError

    def forward(self, features: list[Tensor]) -> Tensor:
        """(B, K, H, W), where (H, W) are the pixels of a label map."""
        raise NotImplementedError


class PatchHead(DenseHead):
    """A linear layer on the encoding of each patch; all pixels of a patch are labelled alike."""

    def __init__(self, width: int, outputs: int, grid: tuple[int, int], shape: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.shape = grid, shape
        self.linear = nn.Linear(width, outputs)

    def features(self, model: nn.Module, batch: TileBatch) -> list[Tensor]:
        return [model(batch).patches]  # (B, P, D)

    def forward(self, features: list[Tensor]) -> Tensor:
        out = self.linear(features[0])  # (B, P, K)
        return F.interpolate(out.transpose(1, 2).unflatten(2, self.grid), self.shape)


class PyramidHead(DenseHead):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144) on the maps that ``model.pyramid`` gives, coarse to fine.

    Each map becomes ``width`` channels and is added to the enlarged sum of those before it, then smoothed by a 3x3
    convolution. Maps finer than the labels are averaged to the labels' pixels. Normalisation is over the channels of a
    pixel, so that nothing depends on where a tile is cut but the padding of the convolutions at its border.

    Args:
        channels: of the maps.
        outputs: K.
        shape: pixels of a label map.
        width: of the head.
    """

    def __init__(self, channels: Sequence[int], outputs: int, shape: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        self.shape = shape
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.norms = nn.ModuleList(_ChannelNorm(width) for _ in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        self.classify = nn.Conv2d(width, outputs, 1)

    def features(self, model: nn.Module, batch: TileBatch) -> list[Tensor]:
        maps: list[Tensor] = cast(Any, model).pyramid(batch)
        return maps

    def forward(self, features: list[Tensor]) -> Tensor:
        total: Tensor | None = None
        for level, lateral, norm, smooth in zip(features, self.lateral, self.norms, self.smooth, strict=True):
            x = norm(lateral(level))  # (B, width, h, w)
            size = [min(pair) for pair in zip(x.shape[-2:], self.shape, strict=True)]
            if size != list(x.shape[-2:]):
                x = F.interpolate(x, size, mode="area")
            if total is not None:
                x = x + F.interpolate(total, size, mode="bilinear", align_corners=False)
            total = F.gelu(smooth(x))
        return F.interpolate(self.classify(total), self.shape, mode="bilinear", align_corners=False)


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each pixel of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def dense_head(kind: Literal["patch", "decoder"], model: nn.Module, outputs: int, shape: tuple[int, int]) -> DenseHead:
    """The head ``"patch"`` or ``"decoder"`` for a model of any system.

    Raises:
        ValueError: the model has no maps for a decoder.
    """
    config = config_of(model)
    if kind == "patch":
        return PatchHead(config.dim, outputs, (config.grid[0], config.grid[1]), shape)
    if not hasattr(model, "pyramid"):
        raise ValueError(
            f"{type(model).__name__} has no maps finer than its patches (no `pyramid`), so it has no head 'decoder'; "
            "use head='patch'"
        )
    return PyramidHead(cast(Any, model).pyramid_channels, outputs, shape)
