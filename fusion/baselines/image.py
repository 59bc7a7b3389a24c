"""A network for images, trained on labels: a ResNet-18, a small vision transformer, or any model of timm."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from .config import ImageConfig
from .maps import MapModel, Shape
from .resnet import ResNet
from .vit import VisionTransformer, token_side

__all__ = ["ImageModel", "TimmBackbone", "composite"]


class ImageModel(MapModel):
    """Tiles in any images to encodings and maps, with a backbone for each image.

    The encoding of a tile is the mean of its coarsest maps, as usual for these networks. A series is an image too, if
    the configuration says how.
    """

    config: ImageConfig

    def _stream(self, modality: Modality) -> nn.Module:
        c = self.config
        size = c.grid[0] * modality.patch_size, c.grid[1] * modality.patch_size
        if c.backbone == "vit-tiny":
            side = token_side(modality.patch_size, c.vit_patch)
            return VisionTransformer(modality.channels, size, side, c.vit_dim, c.vit_depth, c.vit_heads)
        size = (c.image_size, c.image_size) if c.image_size else size
        if c.backbone == "resnet18":
            return ResNet(modality.channels, size, c.resnet_width)
        return TimmBackbone(modality.channels, size, c.backbone.removeprefix("timm:"), c.pretrained)

    def _stream_maps(self, batch: TileBatch, name: str, rows: Tensor) -> list[Tensor]:
        if self.config.modality(name).kind == "series":
            images = composite(batch, name, rows, self._values(batch, name)[rows], self.config.series == "median")
        else:
            images = self._values(batch, name)[rows]  # (N, C, H, W)
        if size := self.config.image_size:
            images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False)
        maps: list[Tensor] = self.streams[name](images)
        return maps


def composite(batch: TileBatch, name: str, rows: Tensor, values: Tensor, median: bool) -> Tensor:
    """One image (N, C, H, W) of a series: median or mean of the observed dates, by band and pixel; 0 where none is.

    Args:
        rows: (B,) bool, the N tiles. values: (N, L, C, H, W) standardised, of those tiles.
    """
    seen = batch.valid[name][rows][:, :, None, None, None].expand_as(values)
    if name in batch.observed:
        seen = seen & batch.observed[name][rows]
    if median:
        return values.masked_fill(~seen, torch.nan).nanmedian(1).values.nan_to_num()
    return (values * seen).sum(1) / seen.sum(1).clamp_min(1)


class TimmBackbone(nn.Module):
    """The feature maps of a model of timm (https://github.com/huggingface/pytorch-image-models).

    Args:
        channels, size: of an image: bands, and pixels (height, width).
        name: timm's, e.g. ``"convnext_tiny"``.
        pretrained: download weights; first layers are adapted to the number of bands by timm.

    Attributes:
        shapes: of the maps that it returns, from coarse to fine.

    Raises:
        ImportError: timm or torchvision, which it imports, is not installed.
        ValueError: timm has no such model, or none that returns maps for this size.
    """

    def __init__(self, channels: int, size: tuple[int, int], name: str, pretrained: bool = False) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise ImportError(
                f"backbone timm:{name} takes timm and torchvision ({error}): pip install timm, with a torchvision made "
                "for the torch that is installed; or take the backbone resnet18 or vit-tiny, which need neither"
            ) from error
        options: dict[str, Any] = {"features_only": True, "in_chans": channels, "pretrained": pretrained}
        try:
            self.backbone: nn.Module = timm.create_model(name, **options)
            with torch.no_grad():
                found = self.eval()(torch.zeros(1, channels, *size))
        except (RuntimeError, AssertionError, AttributeError) as error:
            raise ValueError(
                f"backbone timm:{name} makes no maps of images of {size[0]} x {size[1]} pixels: {error}. "
                "Some models take one size only, which image_size gives them"
            ) from error
        self.train()
        self.shapes: list[Shape] = [cast(Shape, tuple(each.shape[1:])) for each in found]

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, C, H, W) -> maps from coarse to fine; of equally large ones the last."""
        by_size = {each.shape[-2:]: each for each in self.backbone(images)}
        return list(by_size.values())[::-1]
