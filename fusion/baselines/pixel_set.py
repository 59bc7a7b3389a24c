"""PSE + L-TAE: a date is the statistics of a set of pixels, a series is its dates weighed by attention.

Pixel-set encoder of Garnot et al. 2020 (arXiv 1911.07757), temporal encoder of Garnot & Landrieu 2020
(arXiv 2007.00586).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..layers import Encoding, MaskedBatchNorm
from .base import Baseline, Series
from .config import PseLtaeConfig
from .temporal import TemporalEncoder

__all__ = ["PixelSetSeries", "PseLtae", "draw_pixels", "mean_and_deviation", "pixels_by_patch"]

_LEAST = 4  # pixels drawn of a patch, if it has as many: the deviation of fewer says little


class PseLtae(Baseline):
    """Tiles in any series to encodings: the pixels of a tile are a set, and so are those of each patch.

    The summary is the paper's encoder on the pixels of the tile. Patches go the same way with their own pixels, by
    batch normalisations whose statistics are those of tiles. Vectors of several series are joined (zeros for a
    missing one) and mapped to ``dim`` linearly.
    """

    config: PseLtaeConfig

    def __init__(self, config: PseLtaeConfig) -> None:
        super().__init__(config)
        self.encoders = nn.ModuleDict({m.name: PixelSetSeries(m.channels, config) for m in config.modalities})
        self.fuse = nn.Linear(config.dim * len(config.modalities), config.dim)

    def forward(self, batch: TileBatch) -> Encoding:
        """Encodes B tiles.

        Raises:
            ValueError: a modality the model does not have, or values whose bands or size do not fit.
        """
        self.standardisation.names(batch)  # refuses what does not fit
        shape = (1 + self.config.patches, self.config.dim)
        vectors = []
        for modality in self.config.modalities:
            rows = self._rows(batch, modality.name)
            if rows is None:
                vectors.append(self._nothing(batch, *shape))
            else:
                series = self._series(batch, modality.name, rows)
                vectors.append(self._spread(self.encoders[modality.name](series), rows))
        fused = self.fuse(torch.cat(vectors, -1))  # (B, 1+P, D)
        return Encoding(fused[:, 0], fused[:, 1:])


class PixelSetSeries(nn.Module):
    """One series of a tile to a vector of the tile and one of each patch.

    Args:
        channels: bands of a pixel.
    """

    def __init__(self, channels: int, config: PseLtaeConfig) -> None:
        super().__init__()
        self.grid, self.pixels = config.grid, config.pixels
        widths = (channels, *config.pixel_widths)
        self.pixel_layers = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.pixel_norms = nn.ModuleList(MaskedBatchNorm(width) for width in widths[1:])
        self.date_layer = nn.Linear(2 * widths[-1], config.date_dim)
        self.date_norm = MaskedBatchNorm(config.date_dim)
        self.temporal = TemporalEncoder(
            config.date_dim,
            config.dim,
            width=config.temporal_dim,
            heads=config.heads,
            key_dim=config.key_dim,
            dropout=config.dropout,
            period=config.period,
        )

    def forward(self, series: Series) -> Tensor:
        """N tiles -> (N, 1+P, D), the tile first; 0 for a patch that was never observed."""
        if self.training:
            return self._encode(series)
        # All pixels of many tiles would take much memory, and a tile's bits must not depend on the others.
        one_by_one = zip(*(part.split(1) for part in series), strict=True)
        return torch.cat([self._encode(Series(*tile)) for tile in one_by_one])

    def _encode(self, series: Series) -> Tensor:
        pixels, observed = pixels_by_patch(series, self.grid)  # (N, L, P, S, C), (N, L, P, S)
        if self.training:
            patches = pixels.shape[2]
            pixels, observed = draw_pixels(pixels, observed, max(_LEAST, math.ceil(self.pixels / patches)))
        x = pixels
        for linear, norm in zip(self.pixel_layers, self.pixel_norms, strict=True):
            x = F.relu(norm(linear(x), observed))  # (N, L, P, S, F)
        of_tile = mean_and_deviation(x.flatten(2, 3), observed.flatten(2, 3))[:, :, None]  # (N, L, 1, 2F)
        sets = torch.cat((of_tile, mean_and_deviation(x, observed)), 2).transpose(1, 2)  # (N, 1+P, L, 2F)
        seen = observed.any(3)  # (N, L, P)
        seen = torch.cat((seen.any(2, keepdim=True), seen), 2).transpose(1, 2)  # (N, 1+P, L)
        counted = seen.clone()
        counted[:, 1:] = False  # patches are normalised as tiles are
        dates = F.relu(self.date_norm(self.date_layer(sets), counted))  # (N, 1+P, L, date_dim)
        tiles, places, length = seen.shape
        # Each set has dates of its own, so each is a tile of one place to the temporal encoder.
        days = series.days[:, None].expand(-1, places, -1).reshape(-1, length)
        vectors, _ = self.temporal(
            dates.flatten(0, 1)[:, None], days, seen.flatten(0, 1), counted.any(2).flatten()[:, None]
        )
        vectors = vectors.view(tiles, places, -1)
        return vectors * seen.any(2, keepdim=True)


def pixels_by_patch(series: Series, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Values (N, L, P, S, C) and observed (N, L, P, S): the S pixels of each patch in raster order."""
    tiles, length, channels, height, width = series.values.shape
    rows, columns = grid
    side = height // rows, width // columns
    values = series.values.view(tiles, length, channels, rows, side[0], columns, side[1])
    values = values.permute(0, 1, 3, 5, 4, 6, 2).reshape(tiles, length, rows * columns, -1, channels)
    observed = series.observed.reshape(tiles, length, rows, side[0], columns, side[1])
    return values, observed.permute(0, 1, 2, 4, 3, 5).reshape(tiles, length, rows * columns, -1)


def draw_pixels(values: Tensor, observed: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` random pixels of each patch and date without repetition, observed ones first; all if there are no more.

    Args:
        values: (N, L, P, S, C). observed: (N, L, P, S) bool.
    """
    if count >= values.shape[3]:
        return values, observed
    order = torch.rand(observed.shape, device=values.device).masked_fill(~observed, -1)
    chosen = order.topk(count, dim=3).indices  # (N, L, P, count)
    return values.take_along_dim(chosen[..., None], 3), observed.gather(3, chosen)


def mean_and_deviation(x: Tensor, observed: Tensor) -> Tensor:
    """(..., S, F) with observed (..., S) -> (..., 2F): mean, then standard deviation of what is observed; else 0."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))  # squares in half precision would overflow
    weight = observed.unsqueeze(-1).to(x.dtype)
    count = weight.sum(-2).clamp_min(1)  # (..., 1)
    mean = (x * weight).sum(-2) / count
    variance = ((x - mean.unsqueeze(-2)).square() * weight).sum(-2) / count
    # The root of zero has no gradient, and the deviation of one pixel is zero.
    return torch.cat((mean, (variance + 1e-8).sqrt()), -1)
