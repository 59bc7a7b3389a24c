"""Deterministic tokenizers of series: values to integers and back, by rules that need no training loop.

All take series (B, C, T), also (C, T) or (T,): B places, C variables, T times. NaN is a missing value, and pads
series that end early; its code is -1 and decodes to NaN. Variables are fitted separately.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..memory import remember
from .op import bin_decode, bin_encode, code_statistics

__all__ = ["Encoded", "MeanScaleBins", "MuLaw", "QuantileBins", "SymbolicAggregate", "Tokenizer", "UniformBins"]

SCALE_BITS = 32  # what each number of side information costs, as float32


class Encoded(NamedTuple):
    """Codes and what else decoding needs, from tokenizers that scale each series by numbers of its own."""

    codes: Tensor
    scale: Tensor


def apart(codes: Tensor | Encoded, scale: Tensor | None) -> Encoded:
    """Codes and scale given to ``decode`` as ``encode`` returned them, or one by one."""
    if scale is not None:
        return Encoded(codes, scale)
    if isinstance(codes, tuple):
        return Encoded(*codes)
    raise TypeError("decode: codes alone do not tell the scale; pass what encode returned, or codes and scale")


class Tokenizer(nn.Module):
    """What all tokenizers of series share: ``decode(encode(values))`` is what encoding leaves of ``values``.

    ``state_dict`` holds what ``fit`` found, on the device of the series it was given.
    """

    codebook_size: int

    def fit(self, values: Tensor) -> Tokenizer:
        """Learns from series (B, C, T) what encoding needs, and returns itself."""
        return self

    def reconstruct(self, values: Tensor) -> Tensor:
        """What is left of ``values`` after encoding and decoding; same shape."""
        return self.decode(self.encode(values))

    def rate(self, length: int) -> float:
        """Bits a value that encoding a series of ``length`` values takes, side information included."""
        return math.log2(self.codebook_size)

    def reconstruction_error(self, values: Tensor) -> float:
        """Root mean square error of :meth:`reconstruct` over observed values, in their unit; NaN if there are none."""
        error = self.reconstruct(values).double() - values.double()
        return float(error[~values.isnan()].square().mean().sqrt())

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):  # buffers are as large as what was fitted
            if prefix + name in state:
                setattr(self, name, buffer.new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *args)


def _channels(op: str, values: Tensor) -> Tensor:
    """(..., T) as (B, C, T)."""
    if not values.is_floating_point():
        raise TypeError(f"{op}: series must be floating point, got {values.dtype}; convert with .float()")
    if not 1 <= values.ndim <= 3:
        raise ValueError(f"{op}: series must be (B, C, T), (C, T) or (T,), got {tuple(values.shape)}")
    return values.reshape((1,) * (3 - values.ndim) + values.shape)


def _observed(op: str, values: Tensor) -> list[Tensor]:
    """The finite values of every variable, float64 (N_c,)."""
    seen = []
    for c, channel in enumerate(_channels(op, values).unbind(1)):
        seen.append(channel[channel.isfinite()].double())
        if seen[-1].numel() == 0:
            raise ValueError(f"{op}: variable {c} of series {tuple(values.shape)} has no finite value to fit on")
    return seen


class _Bins(Tokenizer):
    """Bins of every variable: ``edges`` (C, K+1) and ``centres`` (C, K), NaN behind the last of ``sizes`` (C,)."""

    def __init__(self) -> None:
        super().__init__()
        # float64, because a narrow range far from zero (air pressure) has no room for its edges in float32.
        self.register_buffer("edges", torch.empty(0, 0, dtype=torch.float64))
        self.register_buffer("centres", torch.empty(0, 0, dtype=torch.float64))

    @property
    def sizes(self) -> list[int]:
        """Number of bins of every variable."""
        return [centres.numel() for _, centres in self._variables()]

    @property
    def codebook_size(self) -> int:
        """The largest number of bins a variable has."""
        return max(self.sizes, default=0)

    def encode(self, values: Tensor) -> Tensor:
        """Series -> int64 codes of the same shape, -1 where missing; values out of range go to the outer bins."""
        return self._each_channel(values, lambda channel, edges, _: bin_encode(channel, edges))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> float32 series of the same shape."""
        return self._each_channel(codes, lambda channel, _, centres: bin_decode(channel, centres).float())

    def rate(self, length: int) -> float:
        return sum(math.log2(size) for size in self.sizes) / len(self.sizes)

    def _each_channel(self, series: Tensor, function: Any) -> Tensor:
        name, variables = type(self).__name__, self._variables()
        if not variables:
            raise RuntimeError(f"{name}: not fitted yet; call fit(values) or load a state dict")
        whole = series.reshape((1,) * (3 - series.ndim) + series.shape)  # (B, C, T)
        if len(variables) not in (1, whole.shape[1]):
            raise ValueError(f"{name}: fitted on {len(variables)} variables, got series {tuple(series.shape)}")
        done = [function(channel, *variables[c % len(variables)]) for c, channel in enumerate(whole.unbind(1))]
        return torch.stack(done, 1).reshape(series.shape)

    def _variables(self) -> list[tuple[Tensor, Tensor]]:
        """Edges (K+1,) and centres (K,) of every variable, remembered: counting bins waits for a GPU."""

        def make() -> list[tuple[Tensor, Tensor]]:
            sizes = (~self.centres.isnan()).sum(1).tolist()
            edges, centres = self.edges, self.centres
            return [(edges[c, : size + 1].clone(), centres[c, :size].clone()) for c, size in enumerate(sizes)]

        return remember((self.edges, self.centres), "variables", make)

    def _set(self, edges: list[Tensor], centres: list[Tensor]) -> None:
        self.edges = nn.utils.rnn.pad_sequence(edges, batch_first=True, padding_value=math.nan)
        self.centres = nn.utils.rnn.pad_sequence(centres, batch_first=True, padding_value=math.nan)


class UniformBins(_Bins):
    """Equal bins between a lowest and a highest value; decodes to the bin's middle.

    Args:
        bins: K >= 1.
        low, high: range of every variable; by default ``fit`` takes each variable's own.
    """

    def __init__(self, bins: int, *, low: float | None = None, high: float | None = None) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"UniformBins: bins must be at least 1, got {bins}")
        if (low is None) != (high is None) or (low is not None and not low < high):
            raise ValueError(f"UniformBins: give low < high, or neither; got low={low}, high={high}")
        self.bins, self.fixed = bins, low is not None
        if low is not None:
            self._set_ranges([(low, high)], torch.get_default_device())

    def fit(self, values: Tensor) -> UniformBins:
        """Takes each variable's range in series (B, C, T), unless ``low`` and ``high`` were given.

        Raises ValueError if a variable has no finite value.
        """
        if self.fixed:
            return self.to(values.device)
        ranges = [(float(v.min()), float(v.max())) for v in _observed("UniformBins.fit", values)]
        self._set_ranges(ranges, values.device)
        return self

    def _set_ranges(self, ranges: list[tuple[float, float]], device: torch.device) -> None:
        edges = []
        for low, high in ranges:
            # A constant variable, too, needs bins of some width: the least that keeps its value to seven digits.
            least = self.bins * 2.0**-22 * max(abs(low), abs(high), 1e-30)
            widen = max(0.0, least - (high - low)) / 2
            ends = low - widen, high + widen  # computed on the CPU, so that a bin is the same on every device
            edges.append(torch.linspace(*ends, self.bins + 1, dtype=torch.float64, device="cpu").to(device))
        self._set(edges, [(e[1:] + e[:-1]) / 2 for e in edges])


class QuantileBins(_Bins):
    """Bins that hold equally many of the fitted values; decodes to their mean in the bin.

    Values that occur often make quantiles coincide; such bins are merged, so a variable may have fewer than ``bins``.

    Args:
        bins: K >= 1.
    """

    SAMPLE = 1 << 22  # values a variable that are sorted; an evenly spaced sample of more tells the quantiles as well

    def __init__(self, bins: int) -> None:
        super().__init__()
        if bins < 1:
            raise ValueError(f"QuantileBins: bins must be at least 1, got {bins}")
        self.bins = bins

    def fit(self, values: Tensor) -> QuantileBins:
        """Takes each variable's quantiles in series (B, C, T). Raises ValueError if a variable has no finite value."""
        all_edges, all_centres = [], []
        for seen in _observed("QuantileBins.fit", values):
            seen = seen[:: math.ceil(seen.numel() / self.SAMPLE)].sort().values
            # The value at rank k N / K starts bin k, so that a bin's edge is always a value that occurred.
            rank = torch.arange(self.bins, device=seen.device) * seen.numel() // self.bins
            starts = seen[rank].unique()
            edges = torch.cat([starts, torch.nextafter(seen[-1:], seen.new_full((1,), math.inf))])
            counts, sums = code_statistics(seen[:, None], bin_encode(seen, edges), edges.numel() - 1)
            all_edges.append(edges)
            all_centres.append(sums[:, 0] / counts)
        self._set(all_edges, all_centres)
        return self


class MuLaw(Tokenizer):
    """Logarithmic bins, finest around zero (ITU-T G.711, as in WaveNet): mu + 1 codes.

    ``k = floor((y + 1)/2 mu + 1/2)`` with ``y = sign(x) ln(1 + mu|x|)/ln(1 + mu)`` and x in [-1, 1] after division by
    the largest absolute value that ``fit`` saw in the variable (1 without ``fit``). Larger values are clipped.
    """

    def __init__(self, mu: int = 255) -> None:
        super().__init__()
        if mu < 1:
            raise ValueError(f"MuLaw: mu must be at least 1, got {mu}")
        self.mu, self.codebook_size = mu, mu + 1
        self.register_buffer("scale", torch.ones(1))

    def fit(self, values: Tensor) -> MuLaw:
        """Takes each variable's largest absolute value. Raises ValueError if a variable has no finite value."""
        largest = torch.stack([v.abs().max() for v in _observed("MuLaw.fit", values)])
        self.scale = torch.where(largest > 0, largest, 1).float()
        return self

    def encode(self, values: Tensor) -> Tensor:
        """Series -> int64 codes of the same shape, -1 where missing."""
        x = _channels("MuLaw", values).float() / self._scale(values)
        y = x.sign() * torch.log1p(self.mu * x.abs().clamp_max(1)) / math.log1p(self.mu)
        codes = torch.floor((y + 1) / 2 * self.mu + 0.5)
        return codes.nan_to_num(-1).long().reshape(values.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> float32 series of the same shape."""
        y = torch.linspace(-1, 1, self.codebook_size, device=codes.device)
        centres = y.sign() * torch.expm1(y.abs() * math.log1p(self.mu)) / self.mu
        values = bin_decode(codes, centres)
        return (values.reshape((1,) * (3 - codes.ndim) + codes.shape) * self._scale(codes)).reshape(codes.shape)

    def _scale(self, series: Tensor) -> Tensor:
        """(C, 1), to be broadcast over (B, C, T)."""
        channels = series.shape[-2] if series.ndim > 1 else 1
        if self.scale.numel() not in (1, channels):
            raise ValueError(f"MuLaw: fitted on {self.scale.numel()} variables, got series {tuple(series.shape)}")
        return self.scale[:, None]


class MeanScaleBins(Tokenizer):
    """Equal bins of a series divided by its mean absolute value (Chronos, Ansari et al. 2024, section 3.1).

    Args:
        vocabulary: number of token ids, 4096 in Chronos: ``vocabulary - 3`` bins, a padding id, an end id and one
            that never occurs.
        low, high: the outer bins' centres, in multiples of the scale; values beyond are clipped to them.
    """

    PADDING, END = 0, 1
    FIRST = 3  # id of the lowest bin

    def __init__(self, vocabulary: int = 4096, *, low: float = -15.0, high: float = 15.0) -> None:
        super().__init__()
        if vocabulary < 5 or not low < high:
            raise ValueError(
                f"MeanScaleBins: vocabulary >= 5 and low < high, got vocabulary={vocabulary}, low={low}, high={high}"
            )
        self.codebook_size = vocabulary - self.FIRST
        centres = torch.linspace(low, high, self.codebook_size)
        outer = torch.tensor([math.inf])
        self.register_buffer("centres", centres)
        self.register_buffer("edges", torch.cat([-outer, (centres[1:] + centres[:-1]) / 2, outer]))

    def encode(self, values: Tensor) -> Encoded:
        """Series (..., T) -> int64 codes (..., T), -1 where missing, and their scales (..., 1), 1 for a zero series."""
        values = values.float()
        _channels("MeanScaleBins", values)
        seen = values.isfinite()
        scale = torch.where(seen, values.abs(), 0).sum(-1, keepdim=True) / seen.sum(-1, keepdim=True)
        scale = torch.where(scale > 0, scale, 1)
        return Encoded(bin_encode(values / scale, self.edges), scale)

    def decode(self, codes: Tensor | Encoded, scale: Tensor | None = None) -> Tensor:
        """Codes (..., T) and scales (..., 1) -> float32 series (..., T)."""
        codes, scale = apart(codes, scale)
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


class SymbolicAggregate(Tokenizer):
    """SAX (Lin et al. 2007): a series' mean over each segment, in bins equally likely under a normal distribution.

    Args:
        segments: W, number of segments a series is cut into; T need not be a multiple of it.
        alphabet: K, number of symbols.
    """

    def __init__(self, segments: int = 8, alphabet: int = 4) -> None:
        super().__init__()
        if segments < 1 or alphabet < 2:
            raise ValueError(
                f"SymbolicAggregate: segments >= 1 and alphabet >= 2, got segments={segments}, alphabet={alphabet}"
            )
        self.segments, self.codebook_size = segments, alphabet
        edges = torch.special.ndtri(torch.linspace(0, 1, alphabet + 1, dtype=torch.float64))
        density = torch.exp(-edges.square() / 2) / math.sqrt(2 * math.pi)
        self.register_buffer("edges", edges.float())  # (K+1,), infinite at both ends
        # A symbol stands for the mean of the normal distribution inside its bin.
        self.register_buffer("centres", (alphabet * (density[:-1] - density[1:])).float())

    def encode(self, values: Tensor) -> Encoded:
        """Series (..., T) -> int64 codes (..., W), -1 where a segment has no value; mean and deviation (..., 2)."""
        _channels("SymbolicAggregate", values)
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
        codes, scale = apart(codes, scale)
        values = bin_decode(codes, self.centres) * scale[..., 1:] + scale[..., :1]  # (..., W)
        if length is None:
            return values
        return values[..., torch.arange(length, device=codes.device) * codes.shape[-1] // length]

    def reconstruct(self, values: Tensor) -> Tensor:
        return self.decode(self.encode(values), length=values.shape[-1])

    def rate(self, length: int) -> float:
        return (self.segments * math.log2(self.codebook_size) + 2 * SCALE_BITS) / length

    def words(self, codes: Tensor) -> list[str]:
        """Codes (..., W) as words of letters a, b, c ..., a dot where missing; one word a series."""
        rows = codes.reshape(-1, codes.shape[-1]).tolist()
        return ["".join("." if code < 0 else chr(ord("a") + code) for code in row) for row in rows]

    def _overlap(self, length: int, device: torch.device) -> Tensor:
        """How much of time step t lies in segment w; (T, W)."""
        start = torch.arange(length, device=device, dtype=torch.float64)[:, None]
        left = torch.arange(self.segments, device=device, dtype=torch.float64) * (length / self.segments)
        right = left + length / self.segments
        return (torch.minimum(start + 1, right) - torch.maximum(start, left)).clamp_min(0).float()
