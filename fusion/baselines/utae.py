"""U-TAE: a U-Net whose coarsest map attends to dates, for all its maps (Garnot & Landrieu 2021, arXiv 2107.07933)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from .base import Series
from .config import GROUPS, UtaeConfig
from .maps import MapModel, Shape
from .temporal import TemporalEncoder

__all__ = ["SeriesUNet", "Utae", "level_sizes", "weigh_dates"]


class Utae(MapModel):
    """Tiles in any series to encodings and maps, with a U-TAE for each series.

    The encodings are made of the coarsest map, where dates are weighed, and the finest.
    """

    config: UtaeConfig
    encoded = (0, -1)

    def _stream(self, modality: Modality) -> nn.Module:
        size = self.config.grid[0] * modality.patch_size, self.config.grid[1] * modality.patch_size
        return SeriesUNet(modality.channels, size, self.config)

    def _stream_maps(self, batch: TileBatch, name: str, rows: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.streams[name](self._series(batch, name, rows))
        return maps


def level_sizes(size: tuple[int, int], most: int) -> list[tuple[int, int]]:
    """Sizes of at most ``most`` maps, from ``size`` down by halves as long as no side has less than two pixels.

    6 x 6: also 3 x 3; 128 x 128: also 64, 32, 16 if ``most`` is 4.
    """
    sizes = [size]
    while len(sizes) < most and min(sizes[-1]) >= 4:
        sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
    return sizes


class SeriesUNet(nn.Module):
    """The maps of one series, dates weighed.

    Args:
        channels, size: bands, and pixels (height, width).

    Attributes:
        shapes: of the maps that it returns, from coarse to fine.
    """

    def __init__(self, channels: int, size: tuple[int, int], config: UtaeConfig) -> None:
        super().__init__()
        sizes = level_sizes(size, len(config.encoder_widths))
        encoder = config.encoder_widths[: len(sizes)]
        decoder = config.decoder_widths[: len(sizes) - 1]
        self.stem = nn.Sequential(*_convolution(channels, encoder[0]), *_convolution(encoder[0], encoder[0]))
        self.down = nn.ModuleList(DownBlock(*pair) for pair in itertools.pairwise(encoder))
        self.temporal = TemporalEncoder(
            encoder[-1],
            encoder[-1],
            width=config.temporal_dim,
            heads=config.heads,
            key_dim=config.key_dim,
            dropout=config.dropout,
            period=config.period,
        )
        widths = [*decoder, encoder[-1]]  # of the maps that go up, the finest first
        levels = reversed(range(len(decoder)))
        self.up = nn.ModuleList(UpBlock(widths[k + 1], widths[k], encoder[k]) for k in levels)
        self.shapes: list[Shape] = [(w, *s) for w, s in zip(widths, sizes, strict=True)][::-1]

    def forward(self, series: Series) -> list[Tensor]:
        """N tiles -> maps (N, C, H, W) from coarse to fine. Dates that are not valid are not even encoded."""
        maps = [self.stem(series.values[series.valid])]  # (M, C, H, W) of the M valid dates of all tiles
        for block in self.down:
            maps.append(block(maps[-1]))
        by_date = [_by_date(each, series.valid) for each in maps]  # (N, L, C, H, W), the finest first
        height, width = by_date[-1].shape[-2:]
        x = by_date[-1].flatten(3).permute(0, 3, 1, 2)  # (N, h*w, L, C)
        x, attention = self.temporal(x, series.days, series.valid)  # (N, h*w, C), (N, h*w, L, heads)
        out = [x.mT.unflatten(2, (height, width))]
        masks = attention.permute(0, 3, 2, 1).unflatten(3, (height, width))  # (N, heads, L, h, w)
        for block, dates in zip(self.up, by_date[-2::-1], strict=True):
            out.append(block(out[-1], weigh_dates(dates, masks)))
        return out


def weigh_dates(dates: Tensor, masks: Tensor) -> Tensor:
    """Sum over dates of a finer map: each head's attention, enlarged, weighs its share of the channels.

    Args:
        dates: (N, L, C, H, W). masks: (N, heads, L, h, w), heads dividing C.

    Returns:
        (N, C, H, W).
    """
    heads, length = masks.shape[1:3]
    masks = F.interpolate(masks.flatten(1, 2), dates.shape[-2:], mode="bilinear", align_corners=False)
    masks = masks.unflatten(1, (heads, length)).transpose(1, 2)  # (N, L, heads, H, W)
    return (dates.unflatten(2, (heads, -1)) * masks[:, :, :, None]).sum(1).flatten(1, 2)


def _by_date(maps: Tensor, valid: Tensor) -> Tensor:
    """Maps (M, C, H, W) of the valid dates (N, L) -> (N, L, C, H, W), 0 elsewhere."""
    out = maps.new_zeros(*valid.shape, *maps.shape[1:])
    out[valid] = maps
    return out


def _convolution(channels: int, dim: int, batch_norm: bool = False) -> list[nn.Module]:
    """3x3 convolution with reflected borders, normalisation, ReLU."""
    norm = nn.BatchNorm2d(dim) if batch_norm else nn.GroupNorm(GROUPS, dim)
    return [nn.Conv2d(channels, dim, 3, padding=1, padding_mode="reflect"), norm, nn.ReLU()]


class DownBlock(nn.Module):
    """Half the size by a strided convolution, then two convolutions, the second with a residual."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        strided = nn.Conv2d(channels, channels, 4, 2, 1, padding_mode="reflect")
        self.down = nn.Sequential(strided, nn.GroupNorm(GROUPS, channels), nn.ReLU())
        self.first = nn.Sequential(*_convolution(channels, dim))
        self.second = nn.Sequential(*_convolution(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(M, C, H, W) -> (M, D, H // 2, W // 2)."""
        x = self.first(self.down(x))
        return x + self.second(x)


class UpBlock(nn.Module):
    """The size of a finer map by a transposed convolution, joined with it, then two convolutions as in the encoder."""

    def __init__(self, channels: int, dim: int, skipped: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, dim, 4, 2, 1)
        self.up_norm = nn.BatchNorm2d(dim)
        self.skip = nn.Sequential(nn.Conv2d(skipped, skipped, 1), nn.BatchNorm2d(skipped), nn.ReLU())
        self.first = nn.Sequential(*_convolution(dim + skipped, dim, batch_norm=True))
        self.second = nn.Sequential(*_convolution(dim, dim, batch_norm=True))

    def forward(self, x: Tensor, finer: Tensor) -> Tensor:
        """x (N, C, h, w), finer (N, S, H, W) with H // 2 = h and W // 2 = w -> (N, D, H, W)."""
        x = F.relu(self.up_norm(self.up(x, output_size=list(finer.shape[-2:]))))
        x = self.first(torch.cat((x, self.skip(finer)), 1))
        return x + self.second(x)
