"""What the supervised baselines are made of, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..data.modality import Modality
from ..layers.config import TileModelConfig

__all__ = ["BACKBONES", "BaselineConfig", "ImageConfig", "PseLtaeConfig", "UtaeConfig"]

BACKBONES = ("resnet18", "vit-tiny")  # ours; any other is timm's, named "timm:<name>"
GROUPS = 4  # of the group norms of a U-TAE's convolutions, as published


@dataclass(frozen=True)
class BaselineConfig(TileModelConfig):
    """Of a supervised baseline.

    Attributes:
        dim: width of the encodings.
    """

    dim: int = 128

    @classmethod
    def usable(cls, modalities: Sequence[Modality], model: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Names of the modalities that a model with these fields can use: series.

        Args:
            model: fields of the configuration that will differ from the defaults.
        """
        return tuple(m.name for m in modalities if m.kind == "series")

    def _refuse_images(self) -> None:
        images = [m.name for m in self.modalities if m.kind == "image"]
        if images:
            raise ValueError(
                f"{type(self).__name__}: {', '.join(images)} is an image, and {self.system} encodes series only; "
                "leave it out: dataset.with_modalities([...]), or modalities="
            )

    def _divides(self, heads: int, **widths: int) -> None:
        for name, width in widths.items():
            if width % heads:
                raise ValueError(f"{type(self).__name__}: {name}={width} is not a multiple of {heads}, see heads")


@dataclass(frozen=True)
class PseLtaeConfig(BaselineConfig):
    """Modalities, grid and sizes of a PSE + L-TAE. The defaults are the paper's.

    Attributes:
        pixels: drawn from a tile and date in training, the same number from each patch; evaluation takes all.
        pixel_widths: of the layers that see one pixel.
        date_dim: width of a date, of whose pixels mean and standard deviation are known.
        temporal_dim, heads, key_dim: of the attention over dates.
        dropout: of attention weights and of the layers after them.
        period: base of the day encoding in days.
    """

    pixels: int = 64
    pixel_widths: tuple[int, ...] = (32, 64)
    date_dim: int = 128
    temporal_dim: int = 256
    heads: int = 16
    key_dim: int = 8
    dropout: float = 0.2
    period: float = 1000.0

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "dim": 32,
            "pixel_widths": (16, 32),
            "date_dim": 32,
            "temporal_dim": 64,
            "heads": 4,
            "dropout": 0.0,
        },
        "small": {"dim": 64, "date_dim": 64, "temporal_dim": 128, "heads": 8, "dropout": 0.1},
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_images()
        if self.pixels < 1 or not self.pixel_widths:
            raise ValueError(
                f"PseLtaeConfig: pixels must be at least 1 and pixel_widths name a layer, not {self.pixels} and "
                f"{self.pixel_widths}"
            )
        self._divides(self.heads, dim=self.dim, date_dim=self.date_dim)
        self._divides(2 * self.heads, temporal_dim=self.temporal_dim)


@dataclass(frozen=True)
class UtaeConfig(BaselineConfig):
    """Modalities, grid and sizes of a U-TAE, one for each series. The defaults are the paper's.

    Attributes:
        encoder_widths, decoder_widths: of the maps by level, the finest first. Small tiles have fewer levels and use
            the first widths: no map has a side of less than two pixels.
        temporal_dim, heads, key_dim: of the attention over dates in the coarsest map.
        dropout: of attention weights and of the layers after them.
        period: base of the day encoding in days.
    """

    encoder_widths: tuple[int, ...] = (64, 64, 64, 128)
    decoder_widths: tuple[int, ...] = (32, 32, 64)
    temporal_dim: int = 256
    heads: int = 16
    key_dim: int = 4
    dropout: float = 0.2
    period: float = 1000.0

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "dim": 32,
            "encoder_widths": (16, 16, 32),
            "decoder_widths": (16, 16),
            "temporal_dim": 64,
            "heads": 4,
            "dropout": 0.0,
        },
        "small": {
            "dim": 64,
            "encoder_widths": (32, 32, 64),
            "decoder_widths": (32, 32),
            "temporal_dim": 128,
            "heads": 8,
            "dropout": 0.1,
        },
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_images()
        if not self.encoder_widths or len(self.decoder_widths) != len(self.encoder_widths) - 1:
            raise ValueError(
                f"UtaeConfig: {len(self.encoder_widths)} encoder_widths {self.encoder_widths} need one decoder_width "
                f"less, not {self.decoder_widths}: the coarsest map has none"
            )
        for width in self.encoder_widths:
            self._divides(self.heads, encoder_widths=width)
            if width % GROUPS:
                raise ValueError(f"UtaeConfig: encoder_widths={width} is not a multiple of {GROUPS} (group norms)")
        self._divides(2 * self.heads, temporal_dim=self.temporal_dim)
        for m in self.modalities:
            height, width = self.grid[0] * m.patch_size, self.grid[1] * m.patch_size
            if min(height, width) < 2:
                raise ValueError(
                    f"UtaeConfig: tiles of {m.name} have {height} x {width} pixels; reflecting them at their border "
                    "takes two at least. Read larger tiles, or take pse-ltae"
                )


@dataclass(frozen=True)
class ImageConfig(BaselineConfig):
    """Modalities, grid and backbone of a network for images, one backbone for each modality.

    Attributes:
        backbone: ``"resnet18"`` or ``"vit-tiny"``, or ``"timm:<name>"`` for any model of timm, where that is installed.
        pretrained: weights of timm, which downloads them; a saved model asks for them once more when it is loaded.
        image_size: pixels to which images are resized before the backbone; 0 leaves them as they are. Transformers of
            timm want the size that they were made for, e.g. 224.
        series: how a series becomes an image: the ``"median"`` or ``"mean"`` of its observed dates, by pixel and band;
            ``"refuse"`` takes images only.
        resnet_width: of the first stage; the last has eight times as much.
        vit_dim, vit_depth, vit_heads: of the transformer.
        vit_patch: most pixels of a side of a token; the largest divisor of a patch's side is taken.
    """

    backbone: str = "resnet18"
    pretrained: bool = False
    image_size: int = 0
    series: Literal["refuse", "median", "mean"] = "refuse"
    resnet_width: int = 64
    vit_dim: int = 192
    vit_depth: int = 12
    vit_heads: int = 3
    vit_patch: int = 16

    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {"dim": 32, "resnet_width": 16, "vit_dim": 64, "vit_depth": 4, "vit_heads": 2},
        "small": {"dim": 64, "resnet_width": 32, "vit_dim": 128, "vit_depth": 6, "vit_heads": 2},
        "paper": {},
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backbone not in BACKBONES and not self.backbone.startswith("timm:"):
            raise ValueError(
                f"ImageConfig: backbone is {', '.join(BACKBONES)} or timm:<name>, not {self.backbone!r}; a model of "
                f"timm is named timm:{self.backbone}"
            )
        if self.series not in ("refuse", "median", "mean"):
            raise ValueError(f"ImageConfig: series is 'refuse', 'median' or 'mean', not {self.series!r}")
        series = [m.name for m in self.modalities if m.kind == "series"]
        if series and self.series == "refuse":
            raise ValueError(
                f"ImageConfig: {', '.join(series)} is a series, and the network encodes images; give series='median' "
                "to make it one, or leave it out: dataset.with_modalities([...]), or modalities="
            )
        if self.pretrained and not self.backbone.startswith("timm:"):
            raise ValueError(
                f"ImageConfig: there are no pretrained weights of {self.backbone}; only timm:<name> has some"
            )
        if self.image_size < 0:
            raise ValueError(f"ImageConfig: image_size is a number of pixels, or 0, not {self.image_size}")
        if self.image_size and self.backbone == "vit-tiny":
            raise ValueError("ImageConfig: vit-tiny cuts tokens along the patches of the grid; leave image_size out")
        if self.vit_dim % self.vit_heads:
            raise ValueError(f"ImageConfig: vit_dim={self.vit_dim} is not a multiple of vit_heads={self.vit_heads}")
        if self.resnet_width % 16:
            raise ValueError(f"ImageConfig: resnet_width={self.resnet_width} is not a multiple of 16 (group norms)")

    @classmethod
    def usable(cls, modalities: Sequence[Modality], model: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Names of the modalities that a model with these fields can use: images, and series if ``series`` says how."""
        everything = (model or {}).get("series", "refuse") != "refuse"
        return tuple(m.name for m in modalities if everything or m.kind == "image")
