"""Series to tokens: a regular calendar, then bins of its values, or values relative to a scale of the series."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import FiniteScalarQuantizer, MeanScaleBins, PatchTokenizer, SymbolicAggregate, VectorQuantizer
from ..kernels.quantize import bin_decode
from .modality_tokenizer import BinTokenizer, ModalityTokenizer, Places, bin_centres, bins, fit_bins

__all__ = ["Calendar", "RelativeBins", "RelativePatches", "SeriesBins"]


@dataclass(frozen=True)
class Calendar:
    """Regular intervals that a series is averaged into: ``length`` of ``step`` days from day ``start`` on."""

    start: float = 0.0
    step: float = 10.0
    length: int = 37

    def __post_init__(self) -> None:
        if self.step <= 0 or self.length < 1:
            raise ValueError(f"calendar: step={self.step} days and length={self.length} must be positive")

    def __str__(self) -> str:
        return f"{self.length} intervals of {self.step:g} days from day {self.start:g}"

    def times(self, count: int, width: float) -> Tensor:
        """(count,) days at the middle of ``count`` parts of ``width`` intervals; the last one may be shorter."""
        first = torch.arange(count, dtype=torch.float64) * width
        middle = (first + (first + width).clamp_max(self.length)) / 2
        return (self.start + self.step * middle).float()

    def average(self, values: Tensor, days: Tensor, valid: Tensor) -> Tensor:
        """(B, L, C) on ``days`` (B, L) -> (B, C, length) means of the valid values, NaN where an interval has none."""
        interval = ((days - self.start) / self.step).floor().long()  # (B, L)
        inside = valid & (interval >= 0) & (interval < self.length)
        slot = torch.where(inside, interval, self.length)  # the rest goes behind the end
        shape = (len(values), self.length + 1, values.shape[2])
        index = slot[..., None].expand_as(values)
        total = values.new_zeros(shape).scatter_add_(1, index, torch.where(inside[..., None], values, 0))
        count = values.new_zeros(shape[:2]).scatter_add_(1, slot, inside.to(values.dtype))
        return (total / count[..., None])[:, :-1].transpose(1, 2)


def tile_series(batch: TileBatch, name: str, calendar: Calendar) -> Tensor:
    """(B, C, T) spatial mean of a series in its calendar, NaN where missing."""
    mean = batch.values[name].float().mean((-2, -1))  # (B, L, C)
    return calendar.average(mean, batch.days[name], batch.valid[name])


def series_places(channels: int, time: Tensor) -> Places:
    return Places(channels, torch.zeros(len(time), dtype=torch.int64), time)


class SeriesBins(BinTokenizer):
    """One token a value of the calendar and variable."""

    def __init__(
        self, modality: Modality, calendar: Calendar, *, rule: str = "uniform", count: int = 256, margin: float = 0.05
    ) -> None:
        places = series_places(modality.channels, calendar.times(calendar.length, 1))
        super().__init__(modality, places, (calendar.length,), rule=rule, count=count, margin=margin)
        self.calendar = calendar

    def values(self, batch: TileBatch) -> Tensor:
        return tile_series(batch, self.modality.name, self.calendar)


class _Relative(ModalityTokenizer):
    """Codes of values relative to the level (and spread) of the very series, and these as tokens of their own.

    So a generated series has everything needed to be a series of physical values. Scales are put into uniform bins.
    """

    scales: int  # numbers a series is scaled by

    def __init__(
        self, modality: Modality, calendar: Calendar, inner: nn.Module, time: Tensor, *, ordinal: bool, scale_bins: int
    ) -> None:
        channels = modality.channels
        places = series_places(channels, time) + series_places(self.scales * channels, torch.tensor([math.nan]))
        order = torch.tensor([ordinal] * channels + [True] * (self.scales * channels))
        super().__init__(modality, places, max(inner.codebook_size, scale_bins), order)
        self.calendar, self.inner = calendar, inner
        self.scale = bins("uniform", scale_bins, self.scales * channels)

    @property
    def sizes(self) -> Tensor:
        own = [self.inner.codebook_size] * self.modality.channels
        return torch.tensor(own + [self.scale.bins] * (self.scales * self.modality.channels))

    def values(self, batch: TileBatch) -> Tensor:
        return tile_series(batch, self.modality.name, self.calendar)

    def learn(self, values: Tensor, *, steps: int, seed: int) -> None:
        self._learn_codes(values, steps=steps, seed=seed)
        fit_bins(self.scale, self._scales(values))

    def encode(self, values: Tensor) -> Tensor:
        codes = self.inner.encode(values).codes.flatten(1)
        return torch.cat([codes, self.scale.encode(self._scales(values)).flatten(1)], 1)

    def decode(self, codes: Tensor) -> Tensor:
        own, scale = codes[:, : self._own], codes[:, self._own :]
        relative = self._relative(own.unflatten(1, (self.modality.channels, -1)))
        return self._restore(relative, self.scale.decode(scale[..., None])[..., 0])

    def expected(self, probabilities: Tensor) -> Tensor:
        own, scale = probabilities[:, : self._own], probabilities[:, self._own :, : self.scale.bins]
        own = own[..., : self.inner.codebook_size].unflatten(1, (self.modality.channels, -1))
        centres = bin_centres(self.scale, self.scales * self.modality.channels).to(scale.dtype)
        return self._restore(self._expected(own), (scale * centres).sum(-1))

    @property
    def _own(self) -> int:
        """Number of tokens that are no scales."""
        return int((self.places.channel < self.modality.channels).sum())

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

    def _learn_codes(self, values: Tensor, *, steps: int, seed: int) -> None:
        pass

    def _relative(self, codes: Tensor) -> Tensor:
        """(B, C, n) codes -> (B, C, T)."""
        raise NotImplementedError

    def _expected(self, probabilities: Tensor) -> Tensor:
        """(B, C, n, K) -> (B, C, T)."""
        raise NotImplementedError


class RelativeBins(_Relative):
    """Bins of values divided by the series' mean absolute value (Chronos), or symbols of its segments (SAX)."""

    def __init__(
        self, modality: Modality, calendar: Calendar, inner: MeanScaleBins | SymbolicAggregate, scale_bins: int = 256
    ) -> None:
        self.scales = 2 if isinstance(inner, SymbolicAggregate) else 1
        count = inner.segments if self.scales == 2 else calendar.length
        time = calendar.times(count, calendar.length / count)
        super().__init__(modality, calendar, inner, time, ordinal=True, scale_bins=scale_bins)

    def _relative(self, codes: Tensor) -> Tensor:
        return self._stretched(bin_decode(codes, self.inner.centres))

    def _expected(self, probabilities: Tensor) -> Tensor:
        return self._stretched(probabilities @ self.inner.centres.to(probabilities.dtype))

    def _stretched(self, values: Tensor) -> Tensor:
        """(B, C, n) -> (B, C, T), each value as long as its segment."""
        length = self.calendar.length
        return values[..., torch.arange(length, device=values.device) * values.shape[-1] // length]


class RelativePatches(_Relative):
    """Learned codes of patches of ``patch`` values of the standardised series (TOTEM)."""

    scales = 2

    def __init__(
        self,
        modality: Modality,
        calendar: Calendar,
        quantizer: VectorQuantizer | FiniteScalarQuantizer,
        *,
        patch: int = 8,
        hidden: int = 64,
        scale_bins: int = 256,
    ) -> None:
        inner = PatchTokenizer(quantizer, patch=patch, hidden=hidden)
        time = calendar.times(-(-calendar.length // patch), patch)
        super().__init__(modality, calendar, inner, time, ordinal=False, scale_bins=scale_bins)

    def _learn_codes(self, values: Tensor, *, steps: int, seed: int) -> None:
        self.inner.fit(values, steps=steps, seed=seed)

    def _relative(self, codes: Tensor) -> Tensor:
        return self._decoded(self.inner.quantizer.decode(codes))

    def _expected(self, probabilities: Tensor) -> Tensor:
        codes = torch.arange(self.inner.codebook_size, device=probabilities.device)
        return self._decoded(probabilities @ self.inner.quantizer.decode(codes).to(probabilities.dtype))

    def _decoded(self, vectors: Tensor) -> Tensor:
        """(B, C, n, D) -> (B, C, T)."""
        decoded = self.inner.decode_vectors(vectors.flatten(0, 1))
        return decoded.unflatten(0, vectors.shape[:2])[..., : self.calendar.length]
