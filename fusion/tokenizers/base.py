"""What a tokenizer is: the values of one modality of a tile to codes and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from .calendar import Calendar

__all__ = ["ModalityTokenizer", "Places", "grid_places", "series_places"]


class Places:
    """Where the tokens of a modality are: ``position``, ``time``, ``channel`` (n,), as in a token-fusion Layout."""

    def __init__(self, channels: int, position: Tensor, time: Tensor) -> None:
        """``position`` and ``time`` of one channel's tokens; they repeat for each channel."""
        self.position, self.time = position.repeat(channels), time.repeat(channels)
        self.channel = torch.arange(channels).repeat_interleave(len(position))

    def __len__(self) -> int:
        return len(self.channel)

    def __add__(self, other: Places) -> Places:
        """With the channels of ``other`` behind one's own."""
        both = Places(0, torch.empty(0, dtype=torch.int64), torch.empty(0))
        both.position = torch.cat([self.position, other.position])
        both.time = torch.cat([self.time, other.time])
        both.channel = torch.cat([self.channel, other.channel + int(self.channel.max()) + 1])
        return both


def grid_places(channels: int, patches: int) -> Places:
    """Tokens of the patches 0..``patches``-1, or (0 patches) one of the tile as a whole."""
    position = torch.arange(1, patches + 1) if patches else torch.zeros(1, dtype=torch.int64)
    return Places(channels, position, torch.full((len(position),), math.nan))


def series_places(channels: int, time: Tensor) -> Places:
    """Tokens of the tile as a whole on the days ``time`` (n,)."""
    return Places(channels, torch.zeros(len(time), dtype=torch.int64), time)


class ModalityTokenizer(nn.Module, ABC):
    """The values of one modality to codes (B, n) and back. What ``fit`` found is in the state dict.

    Attributes:
        modality, places: what is tokenized, and what its n tokens are.
        codebook_size: K, the most codes that a channel can have.
        ordinal: (C,) bool, of which channels neighbouring codes stand for similar values.
        calendar: of a series; None of an image.
        fitted: () float buffer, 0 or 1: averages of models (EMA, SWA) cannot subtract bool.
    """

    calendar: Calendar | None = None
    fitted: Tensor

    def __init__(self, modality: Modality, places: Places, codebook_size: int, ordinal: bool | Tensor) -> None:
        super().__init__()
        channels = int(places.channel.max()) + 1
        self.modality, self.places, self.codebook_size = modality, places, codebook_size
        self.ordinal = ordinal if isinstance(ordinal, Tensor) else torch.full((channels,), ordinal)
        self.register_buffer("fitted", torch.zeros(()))

    @property
    def sizes(self) -> Tensor:
        """(C,) how many of the K codes each channel has."""
        return torch.full((len(self.ordinal),), self.codebook_size)

    def code_values(self) -> Tensor:
        """(C, K) float32, what a code of an ordinal channel stands for, with a deviation of about 1.

        Here codes stand at equal distances; a tokenizer that knows the values of its codes says so.
        """
        size = self.sizes[:, None].float()  # (C, 1)
        code = torch.arange(self.codebook_size, device=size.device).minimum(size - 1)  # (C, K)
        return (code - (size - 1) / 2) * (math.sqrt(12) / size)

    @abstractmethod
    def values(self, batch: TileBatch) -> Tensor:
        """The physical values that tokens stand for, (B, ...) float32, NaN where missing."""

    def fit(self, values: Tensor, *, steps: int, seed: int) -> Self:
        """Fits to :meth:`values` of the training tiles, of which each channel has finite ones.

        Args:
            steps: of training, if it is learned by gradient.
            seed: of what is drawn.
        """
        self._fit(values, steps=steps, seed=seed)
        self.fitted.fill_(1)
        return self

    @abstractmethod
    def encode(self, values: Tensor) -> Tensor:
        """:meth:`values` -> (B, n) int64, -1 where missing."""

    @abstractmethod
    def decode(self, codes: Tensor) -> Tensor:
        """(B, n) codes -> values, NaN for -1."""

    @abstractmethod
    def expected(self, probabilities: Tensor) -> Tensor:
        """(B, n, K) -> values, expected over the codes."""

    @abstractmethod
    def _fit(self, values: Tensor, *, steps: int, seed: int) -> None: ...
