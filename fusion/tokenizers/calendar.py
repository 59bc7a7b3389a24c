"""The regular calendar that series are averaged into before they are tokenized."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.tiles import TileBatch

__all__ = ["Calendar", "tile_series"]


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
        shape = (values.shape[0], self.length + 1, values.shape[2])
        index = slot[..., None].expand_as(values)
        total = values.new_zeros(shape).scatter_add_(1, index, torch.where(inside[..., None], values, 0))
        count = values.new_zeros(shape[:2]).scatter_add_(1, slot, inside.to(values.dtype))
        return (total / count[..., None])[:, :-1].transpose(1, 2)


def tile_series(batch: TileBatch, name: str, calendar: Calendar) -> Tensor:
    """(B, C, T) spatial mean of a series in its calendar, NaN where missing."""
    mean = batch.values[name].float().mean((-2, -1))  # (B, L, C)
    return calendar.average(mean, batch.days[name], batch.valid[name])
