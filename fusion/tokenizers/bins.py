"""Single numbers in bins: of a series' calendar, of the patches of an image, or of a tile."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels.quantize.tokenizers import ValueTokenizer
from ..layers.statistics import band_statistics
from .base import ModalityTokenizer, Places, grid_places, series_places
from .calendar import Calendar, tile_series
from .image_patches import observed_image

__all__ = ["BinTokenizer", "ImageBins", "SeriesBins"]


class BinTokenizer(ModalityTokenizer):
    """One token for each number of (B, C, *shape): deterministic, every band or variable with bins of its own.

    Args:
        shape: of one channel's values, as many as ``places`` has for it; () for a single one.
        quantizer: uniform, quantile or mu-law bins, made for the modality's channels.
    """

    def __init__(self, modality: Modality, places: Places, shape: tuple[int, ...], quantizer: ValueTokenizer) -> None:
        super().__init__(modality, places, quantizer.bins, ordinal=True)
        self.shape, self.quantizer = shape, quantizer

    @property
    def sizes(self) -> Tensor:
        return self.quantizer.sizes

    def code_values(self) -> Tensor:
        """(C, K) float32, the centres of the bins less the mean of the band, in deviations of it."""
        mean, std = (statistic[..., 0].to(self.fitted.device) for statistic in band_statistics(self.modality))
        return ((self.quantizer.code_values() - mean) / std).float()

    def encode(self, values: Tensor) -> Tensor:
        return self.quantizer.encode(self._flat(values)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        return self._shaped(self.quantizer.decode(codes.unflatten(1, (self.modality.channels, -1))))

    def expected(self, probabilities: Tensor) -> Tensor:
        centres = self.quantizer.code_values().to(probabilities.dtype)  # (C, K)
        by_channel = probabilities.unflatten(1, (self.modality.channels, -1))  # (B, C, n, K)
        return self._shaped(torch.einsum("bcnk,ck->bcn", by_channel, centres))

    def _fit(self, values: Tensor, *, steps: int, seed: int) -> None:
        self.quantizer.fit(self._flat(values))

    def _flat(self, values: Tensor) -> Tensor:
        """(B, C, *shape) -> (B, C, n), the form of series."""
        return values.reshape(*values.shape[:2], -1)

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:2], *self.shape)


class SeriesBins(BinTokenizer):
    """One token a value of the calendar and variable."""

    calendar: Calendar

    def __init__(self, modality: Modality, calendar: Calendar, quantizer: ValueTokenizer) -> None:
        places = series_places(modality.channels, calendar.times(calendar.length, 1))
        super().__init__(modality, places, (calendar.length,), quantizer)
        self.calendar = calendar

    def values(self, batch: TileBatch) -> Tensor:
        return tile_series(batch, self.modality.name, self.calendar)


class ImageBins(BinTokenizer):
    """One token a band and patch: its mean. With ``whole`` one token a band: the mean of the tile."""

    def __init__(
        self, modality: Modality, grid: tuple[int, int], quantizer: ValueTokenizer, *, whole: bool = False
    ) -> None:
        places = grid_places(modality.channels, 0 if whole else grid[0] * grid[1])
        super().__init__(modality, places, () if whole else grid, quantizer)

    def values(self, batch: TileBatch) -> Tensor:
        image = observed_image(batch, self.modality.name)
        if not self.shape:
            return image.mean((2, 3))
        rows, columns = self.shape
        return rearrange(image, "b c (r h) (s w) -> b c r s (h w)", r=rows, s=columns).mean(-1)
