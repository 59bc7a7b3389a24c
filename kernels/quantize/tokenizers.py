"""Deterministic tokenizers of series, value by value: integers and back, by rules that need no training loop.

All take series (B, C, T), also (C, T) or (T,): B places, C variables, T times. NaN is a missing value, and pads
series that end early; its code is -1 and decodes to NaN. Variables are fitted separately. Arrays are taken, too, also
masked ones: what they mask is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from ..memory import remember
from ..modules import has_values, keeping_precision, widest
from .op import bin_decode, bin_encode, code_statistics
from .series import as_channels, as_codes, as_series, observed

__all__ = ["MuLaw", "QuantileBins", "Tokenizer", "UniformBins", "ValueTokenizer"]

Codes = TypeVar("Codes")


class Tokenizer(nn.Module, Generic[Codes]):
    """What all tokenizers of series share: ``decode(encode(values))`` is what encoding leaves of ``values``.

    ``state_dict`` holds what ``fit`` found, on the device of the series it was given.
    """

    @property
    def codebook_size(self) -> int:
        """K, number of codes; the largest of all variables."""
        raise NotImplementedError

    def fit(self, values: Tensor) -> Self:
        """Learns from series (B, C, T) what encoding needs, and returns itself."""
        return self

    def encode(self, values: Tensor) -> Codes:
        """Series (..., T) -> int64 codes, -1 where missing, and what else decoding needs."""
        raise NotImplementedError

    def decode(self, codes: Codes) -> Tensor:
        """What :meth:`encode` returned -> float32 series."""
        raise NotImplementedError

    def reconstruct(self, values: Tensor) -> Tensor:
        """What is left of ``values`` after encoding and decoding; same shape."""
        return self.decode(self.encode(values))

    def rate(self, length: int) -> float:
        """Bits a value that encoding a series of ``length`` values takes, side information included."""
        return math.log2(self.codebook_size)

    def reconstruction_error(self, values: Tensor) -> float:
        """Root mean square error of :meth:`reconstruct` over observed values, in their unit; NaN if there are none."""
        values = as_series(type(self).__name__, values)
        error = self.reconstruct(values).double() - values.double()
        return float(error[~values.isnan()].square().mean().sqrt())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What fit found is not the weights' precision's business: edges in float16 would fall together.
        super()._apply(keeping_precision(fn, *self.buffers(recurse=False)), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name, buffer in self.named_buffers(recurse=False):  # buffers are as large as what was fitted
            if prefix + name in state:
                setattr(self, name, buffer.new_empty(state[prefix + name].shape))
        super()._load_from_state_dict(state, prefix, *args)


class ValueTokenizer(Tokenizer[Tensor]):
    """One code a value: a bin of its variable.

    Attributes:
        bins: the most that a variable can have.
        channels: C, if it is fixed: buffers then have the shapes they will have once fitted.
    """

    bins: int
    channels: int | None

    @property
    def sizes(self) -> Tensor:
        """(C,) int64, number of codes of every variable."""
        raise NotImplementedError

    def code_values(self) -> Tensor:
        """(C, ``bins``) float32 value of every code; that of the last one for codes which a variable does not have."""
        codes = torch.arange(self.bins, device=self.sizes.device).minimum(self.sizes[:, None] - 1)
        return self.decode(codes)

    def _require_channels(self, found: int) -> None:
        if self.channels not in (None, found):
            raise ValueError(f"{type(self).__name__}.fit: made for {self.channels} variables, got {found}")


class _Bins(ValueTokenizer):
    """Bins of every variable: ``edges`` (C, K+1) and ``centres`` (C, K), NaN behind the last of ``sizes`` (C,)."""

    edges: Tensor
    centres: Tensor

    def __init__(self, bins: int, channels: int | None) -> None:
        super().__init__()
        if bins < 1 or (channels is not None and channels < 1):
            raise ValueError(
                f"{type(self).__name__}: bins must be at least 1, and so must channels, got {bins} and {channels}"
            )
        self.bins, self.channels = bins, channels
        rows, edges, centres = (0, 0, 0) if channels is None else (channels, bins + 1, bins)
        # float64, because a narrow range far from zero (air pressure) has no room for its edges in float32.
        self.register_buffer("edges", torch.full((rows, edges), math.nan, dtype=torch.float64))
        self.register_buffer("centres", torch.full((rows, centres), math.nan, dtype=torch.float64))

    @property
    def sizes(self) -> Tensor:
        return (~self.centres.isnan()).sum(1)

    @property
    def codebook_size(self) -> int:
        return max((len(centres) for _, centres in self._variables()), default=0)

    def encode(self, values: Tensor) -> Tensor:
        """Series -> int64 codes of the same shape, -1 where missing; values out of range go to the outer bins."""
        values = as_series(type(self).__name__, values)
        return self._each_channel(values, lambda channel, edges, _: bin_encode(channel, edges))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> float32 series of the same shape."""
        codes = as_codes(type(self).__name__, codes)
        return self._each_channel(codes, lambda channel, _, centres: bin_decode(channel, centres).float())

    def rate(self, length: int) -> float:
        sizes = [len(centres) for _, centres in self._variables()]
        return sum(math.log2(size) for size in sizes) / len(sizes)

    def _each_channel(self, series: Tensor, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        name, variables = type(self).__name__, self._variables()
        if not variables or not len(variables[0][1]):
            raise RuntimeError(f"{name}: not fitted yet; call fit(values) or load a state dict")
        whole = series.reshape((1,) * (3 - series.ndim) + series.shape)  # (B, C, T)
        if len(variables) not in (1, whole.shape[1]):
            raise ValueError(f"{name}: fitted on {len(variables)} variables, got series {tuple(series.shape)}")
        done = [function(channel, *variables[c % len(variables)]) for c, channel in enumerate(whole.unbind(1))]
        return torch.stack(done, 1).reshape(series.shape)

    def _variables(self) -> list[tuple[Tensor, Tensor]]:
        """Edges (K+1,) and centres (K,) of every variable, remembered: counting bins waits for a GPU."""

        def make() -> list[tuple[Tensor, Tensor]]:
            edges, centres = self.edges, self.centres
            if has_values(centres):
                sizes = self.sizes.cpu().tolist()
            else:  # of a trace: all bins, and of a variable that has fewer none begins at its outer edge
                sizes = [centres.shape[1]] * centres.shape[0]
                number = torch.arange(edges.shape[1], device=edges.device)
                edges = edges.masked_fill((number == self.sizes[:, None]) & (number < edges.shape[1] - 1), math.nan)
            return [(edges[c, : size + 1].clone(), centres[c, :size].clone()) for c, size in enumerate(sizes)]

        found: list[tuple[Tensor, Tensor]] = remember((self.edges, self.centres), "variables", make)
        return found

    def _set(self, edges: list[Tensor], centres: list[Tensor]) -> None:
        self._require_channels(len(edges))
        for name, rows, count in (("edges", edges, self.bins + 1), ("centres", centres, self.bins)):
            padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=math.nan)
            if self.channels is not None:  # of the shape that a checkpoint has, however many bins were merged
                padded = nn.functional.pad(padded, (0, count - padded.shape[1]), value=math.nan)
            setattr(self, name, padded)


class UniformBins(_Bins):
    """Equal bins between a lowest and a highest value; decodes to the bin's middle.

    Args:
        bins: K >= 1.
        low, high: range of every variable; by default ``fit`` takes each variable's own.
        margin: share of a variable's own range by which its bins reach beyond it on either side.
        channels: C, if buffers should have their final shapes before ``fit``.
    """

    def __init__(
        self,
        bins: int,
        *,
        low: float | None = None,
        high: float | None = None,
        margin: float = 0.0,
        channels: int | None = None,
    ) -> None:
        super().__init__(bins, channels)
        self.margin, self.fixed = margin, low is not None
        if low is not None and high is not None and low < high:
            self._set_ranges([(low, high)] * (channels or 1), torch.get_default_device())
        elif low is not None or high is not None:
            raise ValueError(f"UniformBins: give low < high, or neither; got low={low}, high={high}")

    def fit(self, values: Tensor) -> Self:
        """Takes each variable's range in series (B, C, T), unless ``low`` and ``high`` were given.

        Raises ValueError if a variable has no finite value.
        """
        values = as_series("UniformBins.fit", values)
        if self.fixed:
            return self.to(values.device)
        ranges = []
        for seen in observed("UniformBins.fit", values):
            low, high = seen.min(), seen.max()
            if self.margin:
                beyond = self.margin * (high - low)
                low, high = low - beyond, high + beyond
            ranges.append((float(low), float(high)))
        self._set_ranges(ranges, values.device)
        return self

    def _set_ranges(self, ranges: list[tuple[float, float]], device: torch.device) -> None:
        edges = []
        for low, high in ranges:
            # A constant variable, too, needs bins of some width: the least that keeps its value to seven digits.
            least = self.bins * 2.0**-22 * max(abs(low), abs(high), 1e-30)
            widen = max(0.0, least - (high - low)) / 2
            ends = low - widen, high + widen  # computed on the CPU, so that a bin is the same on every device
            edges.append(
                torch.linspace(*ends, self.bins + 1, dtype=torch.float64, device="cpu").to(device, widest(device))
            )
        self._set(edges, [(e[1:] + e[:-1]) / 2 for e in edges])


class QuantileBins(_Bins):
    """Bins that hold equally many of the fitted values; decodes to their mean in the bin.

    Values that occur often make quantiles coincide; such bins are merged, so a variable may have fewer than ``bins``.

    Args:
        bins: K >= 1.
        channels: C, if buffers should have their final shapes before ``fit``, however many bins are merged.
    """

    SAMPLE = 1 << 22  # values a variable that are sorted; an evenly spaced sample of more tells the quantiles as well

    def __init__(self, bins: int, *, channels: int | None = None) -> None:
        super().__init__(bins, channels)

    def fit(self, values: Tensor) -> Self:
        """Takes each variable's quantiles in series (B, C, T). Raises ValueError if a variable has no finite value."""
        all_edges, all_centres = [], []
        for finite in observed("QuantileBins.fit", values):
            seen = finite.to(widest(finite.device))[:: math.ceil(finite.numel() / self.SAMPLE)].sort().values
            # The value at rank k N / K starts bin k, so that a bin's edge is always a value that occurred.
            rank = torch.arange(self.bins, device=seen.device) * seen.numel() // self.bins
            starts = seen[rank]  # (K,) rising
            starts = torch.cat([starts[:1], starts[1:][starts.diff() > 0]])
            edges = torch.cat([starts, torch.nextafter(seen[-1:], seen.new_full((1,), math.inf))])
            counts, sums = code_statistics(seen[:, None], bin_encode(seen, edges), edges.numel() - 1)
            all_edges.append(edges)
            all_centres.append(sums[:, 0] / counts)
        self._set(all_edges, all_centres)
        return self


class MuLaw(ValueTokenizer):
    """Logarithmic bins, finest around zero (ITU-T G.711, as in WaveNet): mu + 1 codes.

    ``k = floor((y + 1)/2 mu + 1/2)`` with ``y = sign(x) ln(1 + mu|x|)/ln(1 + mu)`` and x in [-1, 1] after division by
    the largest absolute value that ``fit`` saw in the variable (1 without ``fit``). Larger values are clipped.

    Args:
        mu: one less than the number of codes.
        channels: C, if buffers should have their final shapes before ``fit``.
    """

    scale: Tensor  # (C,), or (1,) for every variable

    def __init__(self, mu: int = 255, *, channels: int | None = None) -> None:
        super().__init__()
        if mu < 1:
            raise ValueError(f"MuLaw: mu must be at least 1, got {mu}")
        self.mu, self.bins, self.channels = mu, mu + 1, channels
        self.register_buffer("scale", torch.ones(channels or 1))

    @property
    def sizes(self) -> Tensor:
        return torch.full_like(self.scale, self.bins, dtype=torch.int64)

    @property
    def codebook_size(self) -> int:
        return self.bins

    def fit(self, values: Tensor) -> Self:
        """Takes each variable's largest absolute value. Raises ValueError if a variable has no finite value."""
        largest = torch.stack([v.abs().max() for v in observed("MuLaw.fit", values)])
        self._require_channels(len(largest))
        self.scale = torch.where(largest > 0, largest, 1).float()
        return self

    def encode(self, values: Tensor) -> Tensor:
        """Series -> int64 codes of the same shape, -1 where missing."""
        values = as_series("MuLaw", values)
        x = as_channels("MuLaw", values).float() / self._scale(values)
        y = x.sign() * torch.log1p(self.mu * x.abs().clamp_max(1)) / math.log1p(self.mu)
        codes = torch.floor((y + 1) / 2 * self.mu + 0.5)
        return codes.nan_to_num(-1).long().reshape(values.shape)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes -> float32 series of the same shape."""
        codes = as_codes("MuLaw", codes)
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
