"""Deterministic tokenizers of series by a scale of each series: its level, or level and spread, beside the codes."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..modules import widest
from .op import bin_decode, bin_encode
from .series import as_channels, as_series
from .tokenizers import Tokenizer

__all__ = ["SCALE_BITS", "Encoded", "MeanScaleBins", "ScaledBins", "SymbolicAggregate", "with_scale"]

FARTHEST = torch.finfo(torch.float32).max  # of outer edges; a moving average of infinities is no number
SCALE_BITS = 32  # what each number of side information costs, as float32


class Encoded(NamedTuple):
    """Codes and what else decoding needs, from tokenizers that scale each series by numbers of its own."""

    codes: Tensor
    scale: Tensor


def with_scale(codes: Tensor | Encoded, scale: Tensor | None) -> Encoded:
    """Codes and scale given to ``decode`` as ``encode`` returned them, or one by one."""
    if isinstance(codes, tuple):
        return Encoded(*codes)
    if scale is None:
        raise TypeError("decode: codes alone do not tell the scale; pass what encode returned, or codes and scale")
    return Encoded(codes, scale)


class ScaledBins(Tokenizer[Encoded]):
    """Bins of a series divided by numbers of its own.

    Attributes:
        scales: numbers that a series is scaled by: 1, its level, or 2, its level and spread.
        edges, centres: (K+1,), (K,) of the scaled values.
    """

    scales: ClassVar[int]
    edges: Tensor
    centres: Tensor

    @property
    def codebook_size(self) -> int:
        return len(self.centres)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        self.edges.clamp_(-FARTHEST, FARTHEST)  # earlier checkpoints have infinite ones

    def tokens(self, length: int) -> int:
        """Number of codes of a series of ``length`` values."""
        return length


class MeanScaleBins(ScaledBins):
    """Equal bins of a series divided by its mean absolute value (Chronos, Ansari et al. 2024, section 3.1).

    Args:
        vocabulary: number of token ids, 4096 in Chronos: ``vocabulary - 3`` bins, a padding id, an end id and one
            that never occurs.
        low, high: the outer bins' centres, in multiples of the scale; values beyond are clipped to them.
    """

    scales = 1
    PADDING, END = 0, 1
    FIRST = 3  # id of the lowest bin

    def __init__(self, vocabulary: int = 4096, *, low: float = -15.0, high: float = 15.0) -> None:
        super().__init__()
        if vocabulary < 5 or not low < high:
            raise ValueError(
                f"MeanScaleBins: vocabulary >= 5 and low < high, got vocabulary={vocabulary}, low={low}, high={high}"
            )
        centres = torch.linspace(low, high, vocabulary - self.FIRST)
        outer = torch.tensor([FARTHEST])
        self.register_buffer("centres", centres)
        self.register_buffer("edges", torch.cat([-outer, (centres[1:] + centres[:-1]) / 2, outer]))

    def encode(self, values: Tensor) -> Encoded:
        """Series (..., T) -> int64 codes (..., T), -1 where missing, and their scales (..., 1), 1 for a zero series."""
        values = as_series("MeanScaleBins", values).float()
        as_channels("MeanScaleBins", values)
        seen = values.isfinite()
        scale = torch.where(seen, values.abs(), 0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1)
        return Encoded(bin_encode(values / scale, self.edges), scale)

    def decode(self, codes: Tensor | Encoded, scale: Tensor | None = None) -> Tensor:
        """Codes (..., T) and scales (..., 1) -> float32 series (..., T)."""
        codes, scale = with_scale(codes, scale)
        return bin_decode(codes, self.centres) * scale

    def rate(self, length: int) -> float:
        return math.log2(self.codebook_size) + SCALE_BITS / length

    def ids(self, codes: Tensor) -> Tensor:
        """Codes (..., T) -> Chronos' token ids (..., T + 1): missing values are padding, an end id is appended."""
        ids = torch.where(codes < 0, self.PADDING, codes + self.FIRST)
        return torch.cat([ids, ids.new_full((*ids.shape[:-1], 1), self.END)], -1)

    def codes(self, ids: Tensor) -> Tensor:
        """Token ids (..., T), without the end id -> codes (..., T); ids that are no bin become -1."""
        return torch.where(ids < self.FIRST, -1, ids - self.FIRST).clamp_max(self.codebook_size - 1)


class SymbolicAggregate(ScaledBins):
    """SAX (Lin et al. 2007): a series' mean over each segment, in bins equally likely under a normal distribution.

    Args:
        segments: W, number of segments a series is cut into; T need not be a multiple of it.
        alphabet: K, number of symbols.
    """

    scales = 2

    def __init__(self, segments: int = 8, alphabet: int = 4) -> None:
        super().__init__()
        if segments < 1 or alphabet < 2:
            raise ValueError(
                f"SymbolicAggregate: segments >= 1 and alphabet >= 2, got segments={segments}, alphabet={alphabet}"
            )
        self.segments = segments
        edges = torch.special.ndtri(torch.linspace(0, 1, alphabet + 1, dtype=torch.float64))
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        self.register_buffer("edges", edges.float().clamp(-FARTHEST, FARTHEST))  # (K+1,)
        # A symbol stands for the mean of the normal distribution inside its bin.
        self.register_buffer("centres", (alphabet * (density[:-1] - density[1:])).float())

    def encode(self, values: Tensor) -> Encoded:
        """Series (..., T) -> int64 codes (..., W), -1 where a segment has no value; mean and deviation (..., 2)."""
        values = as_series("SymbolicAggregate", values)
        as_channels("SymbolicAggregate", values)
        values = values.float()
        seen = values.isfinite()
        count = seen.sum(-1, keepdim=True)
        mean = torch.where(seen, values, 0).sum(-1, keepdim=True) / count
        centred = torch.where(seen, values - mean, 0)
        deviation = (centred.square().sum(-1, keepdim=True) / count).sqrt()
        weight = self._overlap(values.shape[-1], values.device)  # (T, W)
        z = (centred @ weight) / (seen.float() @ weight) / torch.where(deviation > 0, deviation, 1)
        return Encoded(bin_encode(z, self.edges), torch.cat([mean, deviation], -1))

    def decode(self, codes: Tensor | Encoded, scale: Tensor | None = None, length: int | None = None) -> Tensor:
        """Codes (..., W), mean and deviation (..., 2) -> float32 series (..., length), each segment constant.

        ``length`` defaults to W: one value a segment.
        """
        codes, scale = with_scale(codes, scale)
        values = bin_decode(codes, self.centres) * scale[..., 1:] + scale[..., :1]  # (..., W)
        if length is None:
            return values
        return values[..., torch.arange(length, device=codes.device) * codes.shape[-1] // length]

    def reconstruct(self, values: Tensor) -> Tensor:
        values = as_series("SymbolicAggregate", values)
        return self.decode(self.encode(values), length=values.shape[-1])

    def tokens(self, length: int) -> int:
        return self.segments

    def rate(self, length: int) -> float:
        return (self.segments * math.log2(self.codebook_size) + 2 * SCALE_BITS) / length

    def words(self, codes: Tensor) -> list[str]:
        """Codes (..., W) as words of letters a, b, c ..., a dot where missing; one word a series."""
        rows = codes.reshape(-1, codes.shape[-1]).tolist()
        return ["".join("." if code < 0 else chr(ord("a") + code) for code in row) for row in rows]

    def _overlap(self, length: int, device: torch.device) -> Tensor:
        """How much of time step t lies in segment w; (T, W)."""
        wide = widest(device)
        start = torch.arange(length, device=device, dtype=wide)[:, None]
        left = torch.arange(self.segments, device=device, dtype=wide) * (length / self.segments)
        right = left + length / self.segments
        return (torch.minimum(start + 1, right) - torch.maximum(start, left)).clamp_min(0).float()
