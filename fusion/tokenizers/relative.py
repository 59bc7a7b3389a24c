"""Series to codes relative to a scale of the series, and that scale as tokens of its own."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import UniformBins
from ..kernels.quantize import bin_decode
from ..kernels.quantize.scaled import Encoded, ScaledBins
from ..kernels.quantize.tokenizers import Tokenizer
from .base import ModalityTokenizer, series_places
from .calendar import Calendar, tile_series

__all__ = ["SCALE_BINS", "RelativeBins", "RelativeTokenizer"]

SCALE_BINS = 256  # of the level, and of the spread, of a variable's series


class RelativeTokenizer(ModalityTokenizer):
    """Codes of values relative to the level (and spread) of the very series, and these as tokens of their own.

    So a generated series has everything needed to be a series of physical values. Scales are put into uniform bins.

    Args:
        inner: makes the codes, and the scales (B, C, ``scales``).
        scales: 1, a level, or 2, level and spread.
        time: (n,) days of one variable's codes.
        ordinal: whether neighbouring codes stand for similar values.
    """

    calendar: Calendar

    def __init__(
        self,
        modality: Modality,
        calendar: Calendar,
        inner: Tokenizer[Encoded],
        scales: int,
        time: Tensor,
        *,
        ordinal: bool,
    ) -> None:
        channels = modality.channels
        places = series_places(channels, time) + series_places(scales * channels, torch.tensor([math.nan]))
        order = torch.tensor([ordinal] * channels + [True] * (scales * channels))
        super().__init__(modality, places, max(inner.codebook_size, SCALE_BINS), order)
        self.calendar, self.inner, self.scales = calendar, inner, scales
        self.scale = UniformBins(SCALE_BINS, channels=scales * channels)
        self._own = channels * len(time)  # tokens that are no scales

    @property
    def sizes(self) -> Tensor:
        own = [self.inner.codebook_size] * self.modality.channels
        return torch.tensor(own + [SCALE_BINS] * (self.scales * self.modality.channels))

    def values(self, batch: TileBatch) -> Tensor:
        return tile_series(batch, self.modality.name, self.calendar)

    def encode(self, values: Tensor) -> Tensor:
        codes = self.inner.encode(values).codes.flatten(1)
        return torch.cat([codes, self.scale.encode(self._scales(values)).flatten(1)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        own, scale = codes[:, : self._own], codes[:, self._own :]
        relative = self._relative(own.unflatten(1, (self.modality.channels, -1)))
        return self._restore(relative, self.scale.decode(scale[..., None])[..., 0])

    def expected(self, probabilities: Tensor) -> Tensor:
        own, scale = probabilities[:, : self._own], probabilities[:, self._own :, :SCALE_BINS]
        own = own[..., : self.inner.codebook_size].unflatten(1, (self.modality.channels, -1))
        return self._restore(self._expected(own), (scale * self.scale.code_values().to(scale.dtype)).sum(-1))

    def _fit(self, values: Tensor, *, steps: int, seed: int) -> None:
        self._fit_codes(values, steps=steps, seed=seed)
        self.scale.fit(self._scales(values))

    def _scales(self, values: Tensor) -> Tensor:
        """(B, C, T) -> (B, S*C, 1), NaN where a series has no value."""
        scale = self.inner.encode(values).scale  # (B, C, S)
        scale = torch.where(values.isfinite().any(-1, keepdim=True), scale, math.nan)
        return scale.transpose(1, 2).flatten(1)[..., None]

    def _restore(self, relative: Tensor, scale: Tensor) -> Tensor:
        """Relative values (B, C, T) and scales (B, S*C) -> (B, C, T)."""
        by_channel = scale.unflatten(1, (self.scales, -1))  # (B, S, C)
        spread = relative * by_channel[:, -1, :, None]
        return spread if self.scales == 1 else spread + by_channel[:, 0, :, None]

    @abstractmethod
    def _fit_codes(self, values: Tensor, *, steps: int, seed: int) -> None: ...

    @abstractmethod
    def _relative(self, codes: Tensor) -> Tensor:
        """(B, C, n) codes -> (B, C, T)."""

    @abstractmethod
    def _expected(self, probabilities: Tensor) -> Tensor:
        """(B, C, n, K) -> (B, C, T)."""


class RelativeBins(RelativeTokenizer):
    """Bins of values divided by the series' mean absolute value (Chronos), or symbols of its segments (SAX)."""

    inner: ScaledBins

    def __init__(self, modality: Modality, calendar: Calendar, inner: ScaledBins) -> None:
        count = inner.tokens(calendar.length)
        time = calendar.times(count, calendar.length / count)
        super().__init__(modality, calendar, inner, inner.scales, time, ordinal=True)

    def _fit_codes(self, values: Tensor, *, steps: int, seed: int) -> None:
        self.inner.fit(values)

    def _relative(self, codes: Tensor) -> Tensor:
        return self._stretched(bin_decode(codes, self.inner.centres))

    def _expected(self, probabilities: Tensor) -> Tensor:
        return self._stretched(probabilities @ self.inner.centres.to(probabilities.dtype))

    def _stretched(self, values: Tensor) -> Tensor:
        """(B, C, n) -> (B, C, T), each value as long as its segment."""
        length = self.calendar.length
        return values[..., torch.arange(length, device=values.device) * values.shape[-1] // length]
