"""What the tokenizer of one modality offers, and those that put single numbers into bins."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import MuLaw, QuantileBins, UniformBins

__all__ = ["BinTokenizer", "ModalityTokenizer", "Places", "bins", "grid_places"]

RULES = ("uniform", "quantile", "mu-law")


class Places:
    """Where the tokens of a modality are: ``position``, ``time``, ``channel`` (n,), as in a Layout."""

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


class ModalityTokenizer(nn.Module):
    """The values of one modality to codes (B, n) and back.

    Attributes:
        modality, places: what is tokenized, and what its n tokens are.
        codebook_size: K, of all channels.
        ordinal: (C,) bool, of which channels neighbouring codes stand for similar values.
        fitted: () bool buffer.
    """

    def __init__(self, modality: Modality, places: Places, codebook_size: int, ordinal: bool | Tensor) -> None:
        super().__init__()
        channels = int(places.channel.max()) + 1
        self.modality, self.places, self.codebook_size = modality, places, codebook_size
        self.ordinal = ordinal if isinstance(ordinal, Tensor) else torch.full((channels,), ordinal)
        self.register_buffer("fitted", torch.zeros((), dtype=torch.bool))

    @property
    def sizes(self) -> Tensor:
        """(C,) how many of the K codes each channel has."""
        return torch.full((len(self.ordinal),), self.codebook_size)

    def values(self, batch: TileBatch) -> Tensor:
        """The physical values that tokens stand for, (B, ...) float32, NaN where missing."""
        raise NotImplementedError

    def learn(self, values: Tensor, *, steps: int, seed: int) -> None:
        """Fits to :meth:`values` of the training tiles; each channel has finite ones."""

    def encode(self, values: Tensor) -> Tensor:
        """:meth:`values` -> (B, n) int64, -1 where missing."""
        raise NotImplementedError

    def decode(self, codes: Tensor) -> Tensor:
        """(B, n) codes -> values, NaN for -1."""
        raise NotImplementedError

    def expected(self, probabilities: Tensor) -> Tensor:
        """(B, n, K) -> values, expected over the codes."""
        raise NotImplementedError


def bins(rule: str, count: int, channels: int) -> nn.Module:
    """Bins by a rule, with buffers of the size that they will have once fitted, so that a checkpoint fits.

    Raises:
        ValueError: an unknown rule or no bin.
    """
    if rule not in RULES:
        raise ValueError(f"bins are {', '.join(RULES)}, not {rule!r}")
    if rule == "mu-law":
        quantizer = MuLaw(count - 1)
        quantizer.scale = torch.ones(channels)
        return quantizer
    quantizer = UniformBins(count) if rule == "uniform" else QuantileBins(count)
    quantizer.edges = torch.full((channels, count + 1), math.nan, dtype=torch.float64)
    quantizer.centres = torch.full((channels, count), math.nan, dtype=torch.float64)
    return quantizer


def fit_bins(quantizer: nn.Module, values: Tensor, margin: float = 0.0) -> None:
    """Fits to (B, C, T). Uniform bins reach a share ``margin`` of each variable's range beyond it."""
    if isinstance(quantizer, UniformBins):
        low = torch.where(values.isfinite(), values, math.inf).amin((0, 2))  # (C,)
        high = torch.where(values.isfinite(), values, -math.inf).amax((0, 2))
        beyond = margin * (high - low)
        values = torch.stack([low - beyond, high + beyond], -1)
    quantizer.fit(values)
    if isinstance(quantizer, QuantileBins):  # merged bins leave room
        count = quantizer.bins
        for name, width in (("edges", count + 1), ("centres", count)):
            found = getattr(quantizer, name)
            setattr(quantizer, name, nn.functional.pad(found, (0, width - found.shape[1]), value=math.nan))


def bin_sizes(quantizer: nn.Module, channels: int) -> Tensor:
    """(C,) number of bins of every variable."""
    if isinstance(quantizer, MuLaw):
        return torch.full((channels,), quantizer.codebook_size, device=quantizer.scale.device)
    return (~quantizer.centres.isnan()).sum(1)


def bin_centres(quantizer: nn.Module, channels: int) -> Tensor:
    """(C, K) float32 value of every code; that of the last one for codes which a variable does not have."""
    sizes = bin_sizes(quantizer, channels)
    count = int(sizes.max()) if isinstance(quantizer, MuLaw) else quantizer.bins
    codes = torch.arange(count, device=sizes.device).minimum(sizes[:, None] - 1)
    return quantizer.decode(codes)


class BinTokenizer(ModalityTokenizer):
    """One token for each number of (B, C, *shape): deterministic, every band or variable with bins of its own.

    Args:
        shape: of one channel's values, as many as ``places`` has for it; () for a single one.
        rule: ``"uniform"``, ``"quantile"`` or ``"mu-law"``.
        count: K.
        margin: share of the range by which uniform bins reach beyond it on either side.
    """

    def __init__(
        self, modality: Modality, places: Places, shape: tuple[int, ...], *, rule: str, count: int, margin: float
    ) -> None:
        super().__init__(modality, places, count, ordinal=True)
        self.shape, self.margin = shape, margin
        self.quantizer = bins(rule, count, modality.channels)

    @property
    def sizes(self) -> Tensor:
        return bin_sizes(self.quantizer, self.modality.channels)

    def learn(self, values: Tensor, *, steps: int, seed: int) -> None:
        fit_bins(self.quantizer, self._flat(values), self.margin)

    def encode(self, values: Tensor) -> Tensor:
        return self.quantizer.encode(self._flat(values)).flatten(1)

    def decode(self, codes: Tensor) -> Tensor:
        return self._shaped(self.quantizer.decode(codes.unflatten(1, (self.modality.channels, -1))))

    def expected(self, probabilities: Tensor) -> Tensor:
        centres = bin_centres(self.quantizer, self.modality.channels)  # (C, K)
        by_channel = probabilities.unflatten(1, (self.modality.channels, -1))  # (B, C, n, K)
        return self._shaped(torch.einsum("bcnk,ck->bcn", by_channel, centres.to(probabilities.dtype)))

    def _flat(self, values: Tensor) -> Tensor:
        """(B, C, *shape) -> (B, C, n), the form of series."""
        return values.reshape(*values.shape[:2], -1)

    def _shaped(self, flat: Tensor) -> Tensor:
        return flat.reshape(*flat.shape[:2], *self.shape)
