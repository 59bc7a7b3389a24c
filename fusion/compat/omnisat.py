"""OmniSat as its authors published it: the same numbers, the same names in a state dict.

For those who come from the original index, and to check ours against it. Encoders, decoders, blocks and the ops are
those of :mod:`fusion.omnisat`; what differs from the paper lives here:

* Padding is not masked: a padded date (zeros, day 0) is an observation like any other.
* Every position, and every query of the cross-attention, has a learned absolute embedding.
* Relative positions in self-attention come from the length of the sequence: its last floor(sqrt(L))^2 tokens are
  laid on a square, across modalities, and the rest count as class tokens. Cross-attention uses true positions.
* The position bias of the cross-attention is not scaled with the dot products, and its drop-path rate is that of
  the self-attention block numbered like the last modality.
* A masked token loses its absolute position. The last valid date of a series is never reconstructed.
* Image reconstruction is averaged over all patches; modalities are averaged one by one and then added; targets
  are standardised instance by instance.
* Values are not standardised. Radar series are not group-normalised before the attention.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..data.modality import Modality
from ..kernels import RelativeAttention, euclidean_buckets, patch_info_nce
from ..layers import TransformerBlock
from ..layers.constants import Constants
from ..omnisat.combiner import CrossBlock
from ..omnisat.image import ImageDecoder, ImageEncoder, patchify_image
from ..omnisat.objectives import patch_standardised
from ..omnisat.series import SeriesDecoder, SeriesEncoder, patchify_series
from .milnce import MILNCE, MILNCE_easy, MILNCE_naive, MILNCE_nointra, retrieval_accuracy
from .omnisat_names import Loaded, load_state, original_state

__all__ = [
    "MILNCE",
    "Loaded",
    "MILNCE_easy",
    "MILNCE_naive",
    "MILNCE_nointra",
    "OriginalOmniSat",
    "Pretraining",
    "image_loss",
    "retrieval_accuracy",
    "select_dates",
    "series_loss",
]

MONO_DAY = 120  # the day given to a single-date image that goes through a series encoder ("s2-mono")


@dataclass
class Pretraining:
    """What one pretraining pass returns. ``selected[name]`` is (K, 2): tile and date of each reconstruction."""

    tokens: Tensor  # (B, 1+P, D)
    masked: Tensor  # (B, M*P) bool
    reconstructed: dict[str, Tensor] = field(default_factory=dict)  # image (B,P,C,s,s), series (K,C,P)
    selected: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)


class OriginalOmniSat(Constants):
    """The published model, encoder and decoders, in the published order of modalities.

    Args:
        modalities: images at full resolution, series, and images of one date with names in ``-mono``.
        patches: patches per tile, a square number.
        period: base of the day encoding: 367 for TreeSatAI-TS and FLAIR, 734 for PASTIS-HD.
    """

    def __init__(
        self,
        modalities: tuple[Modality, ...],
        patches: int,
        *,
        dim: int = 256,
        depth: int = 6,
        heads: int = 16,
        dropout: float = 0.2,
        drop_path: float = 0.2,
        period: float = 367.0,
    ) -> None:
        super().__init__()
        self.modalities, self.patches = tuple(modalities), patches
        self.encoders = nn.ModuleDict({m.name: _encoder(m, dim, dropout, period) for m in modalities})
        self.decoders = nn.ModuleDict({m.name: _decoder(m, dim, period) for m in modalities})
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.summary = nn.Parameter(torch.empty(1, 1, dim))
        self.position = nn.Parameter(torch.empty(1, 1 + patches, dim))
        for parameter in (self.summary, self.position):
            nn.init.trunc_normal_(parameter, std=0.02)

        if depth < len(modalities):  # the drop-path rate of the cross-attention
            raise ValueError(f"OriginalOmniSat: depth={depth} is below the number of modalities, {len(modalities)}")
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        bucket = sequence_buckets(1 + len(modalities) * patches)
        self.blocks = nn.ModuleList(
            TransformerBlock(RelativeAttention(dim, heads, bucket, dropout=dropout), dim, 4 * dim, dropout, rate)
            for rate in rates
        )
        side = math.isqrt(patches)
        if side * side != patches:
            raise ValueError(f"OriginalOmniSat: patches must be a square number, not {patches}")
        attention = RelativeAttention(dim, heads, euclidean_buckets(side, side, extra=1), cross=True, dropout=dropout)
        parametrize.register_parametrization(attention, "table", _Unscaled(dim // heads))
        self.cross = _CrossBlock(attention, dim, 4 * dim, dropout, rates[len(modalities) - 1])
        self.query = nn.Parameter(torch.zeros(1, 1, dim))
        self.query_position = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        place = list(range(1, patches + 1)) * len(modalities)
        self.register_index("key_position", lambda: torch.tensor([0, *place]))
        # Slower than channels-last, but convolutions then round as the original's do.
        cast(Any, self).to(memory_format=torch.contiguous_format)

    def forward(self, values: Mapping[str, Tensor], days: Mapping[str, Tensor]) -> Tensor:
        """values (B,C,H,W) or (B,L,C,H,W), days (B,L) with 0 for padding -> (B, 1+P, D), class token first."""
        tokens, _, _ = self.encode(values, days)
        return self.combine((torch.stack(tokens, 1) + self.position[:, None, 1:]).flatten(1, 2))

    def encode(
        self, values: Mapping[str, Tensor], days: Mapping[str, Tensor]
    ) -> tuple[list[Tensor], dict[str, list[Tensor]], dict[str, Tensor]]:
        """Tokens [(B, P, D)] of each modality, pooling positions of images, attention (B, L) of series."""
        tokens, indices, attention = [], {}, {}
        for modality in self.modalities:
            name, x, encoder = modality.name, values[modality.name], self.encoders[modality.name]
            if isinstance(encoder, ImageEncoder):
                flat, indices[name] = encoder(patchify_image(x, modality.patch_size))
                tokens.append(flat.view(len(x), self.patches, -1))
                continue
            mono = x.ndim == 4
            when = torch.full((len(x), 1), MONO_DAY, device=x.device) if mono else days[name]
            series = patchify_series(x[:, None] if mono else x, modality.patch_size)
            token, attention[name] = encoder(series, when.float())  # day encodings with float32 angles
            tokens.append(token)
        return tokens, indices, attention

    def combine(self, tokens: Tensor) -> Tensor:
        """tokens (B, M*P, D), with absolute positions -> (B, 1+P, D)."""
        first = (self.summary + self.position[:, :1]).expand(len(tokens), -1, -1)
        x = torch.cat((first, tokens), 1)
        for block in self.blocks:
            x = block(x)
        return self.cross(x, self.query + self.query_position, self.key_position, None)

    def pretrain(
        self, values: Mapping[str, Tensor], days: Mapping[str, Tensor], noise: Tensor, mask_ratio: float = 0.75
    ) -> Pretraining:
        """One pretraining pass: masks, reconstructs, and returns every loss.

        ``noise`` (B, M*P): the tokens with the smallest are kept.
        """
        tokens, indices, attention = self.encode(values, days)
        joint = (torch.stack(tokens, 1) + self.position[:, None, 1:]).flatten(1, 2)  # (B, M*P, D)
        kept = noise.argsort(1)[:, : int(joint.shape[1] * (1 - mask_ratio))]
        masked = torch.ones_like(noise, dtype=torch.bool).scatter_(1, kept, False)
        combined = self.combine(torch.where(masked[..., None], self.mask_token, joint))
        out = Pretraining(combined, masked)
        patches = combined[:, 1:]  # (B, P, D)
        for m, modality in enumerate(self.modalities):
            name, x = modality.name, values[modality.name]
            decoder = cast("ImageDecoder | SeriesDecoder", self.decoders[name])
            size, mask = modality.patch_size, masked.view(len(masked), -1, self.patches)[:, m]  # (B, P)
            if isinstance(decoder, ImageDecoder):
                predicted = decoder(patches.flatten(0, 1), indices[name]).unflatten(0, (-1, self.patches))
                loss = image_loss(predicted, x, size)
            elif x.ndim == 4:  # one date: no day is added, and all patches count
                predicted = torch.nn.functional.linear(patches, decoder.weight, decoder.bias)  # (B, P, C)
                target = patch_standardised(patchify_series(x[:, None], size)[:, :, 0], (1, 2))
                loss = (predicted - target).square().mean()
            else:
                out.selected[name] = selected = select_dates(attention[name], days[name])
                predicted = decode_dates(decoder, patches, days[name], selected)
                loss = series_loss(predicted, x, selected, mask, size)
            out.reconstructed[name], out.losses[f"{name}_reconstruction_loss"] = predicted, loss
        total = sum(out.losses.values())
        out.losses["contrastive_loss"] = cast(Tensor, patch_info_nce(torch.stack(tokens), temperature=0.1))
        out.losses["loss"] = total + out.losses["contrastive_loss"]
        return out

    def load_original(self, state: Mapping[str, Any]) -> Loaded:
        """Loads weights of the original: of its pretraining, of fine-tuning from it or from scratch, or of an encoder.

        Args:
            state: a state dict, or a checkpoint of Lightning that has one under ``"state_dict"``. Prefixes of Lightning
                (``model.``), DistributedDataParallel and torch.compile are taken off. It may have more modalities than
                the model, and no decoders.

        Returns:
            What was not used of it (heads, other modalities, image decoders without index bypass), and which weights
            of the model kept their values (decoders, mask token). Both are logged too.

        Raises:
            ValueError: entries that have no place, another shape, or another period of days; or missing ones.
            TypeError: something that is not a state dict.
        """
        return load_state(self, state)

    def original_state_dict(self) -> dict[str, Tensor]:
        """The weights under the original's names; :meth:`load_original` is the inverse."""
        return original_state(self)


def sequence_buckets(length: int) -> Tensor:
    """(L, L): the last floor(sqrt(L))^2 tokens as a square grid, the others as class tokens.

    Raises:
        ValueError: L is a square number; the original cannot run it either.
    """
    side = math.isqrt(length)
    if side * side == length:
        raise ValueError(f"sequence_buckets: the original cannot take a square number of tokens, {length}")
    return euclidean_buckets(side, side, extra=length - side * side)


def select_dates(attention: Tensor, days: Tensor) -> Tensor:
    """(K, 2) tile and date of those strictly above the 0.75 quantile of the tile's attention (B, L).

    Candidates are the dates before the last one with a day other than 0, days (B, L).
    """
    index = torch.arange(days.shape[1], device=days.device)
    last = (index * (days != 0)).amax(1, keepdim=True)  # (B, 1)
    candidates = (
        attention.detach().to(torch.promote_types(attention.dtype, torch.float32)).masked_fill(index >= last, math.nan)
    )
    return (candidates > candidates.nanquantile(0.75, dim=1, keepdim=True)).nonzero()


def decode_dates(decoder: SeriesDecoder, patches: Tensor, days: Tensor, selected: Tensor) -> Tensor:
    """patches (B, P, D), days (B, L), selected (K, 2) -> values (K, C, P) of all patches on those dates."""
    tile, date = selected.unbind(1)
    count, tokens = patches.shape[1], patches[tile].flatten(0, 1)  # (K*P, D)
    rows = torch.arange(len(selected), device=patches.device).repeat_interleave(count)
    predicted = decoder(tokens, days[tile, date][:, None], rows)  # (K*P, 1, C)
    return predicted[:, 0].unflatten(0, (-1, count)).transpose(1, 2)


def image_loss(predicted: Tensor, image: Tensor, patch_size: int) -> Tensor:
    """Mean squared error of (B, P, C, s, s) against the patches of (B, C, H, W), each standardised by itself."""
    target = patch_standardised(patchify_image(image, patch_size), (1, 2, 3))
    return (predicted.flatten(0, 1) - target).square().mean()


def series_loss(predicted: Tensor, series: Tensor, selected: Tensor, masked: Tensor, patch_size: int) -> Tensor:
    """Mean squared error of (K, C, P) on masked patches (B, P) of the selected dates (K, 2) of (B, L, C, H, W)."""
    tile, date = selected.unbind(1)
    target = patchify_series(series, patch_size)[tile, :, date]  # (K, P, C)
    target = patch_standardised(target, (1, 2)).transpose(1, 2)  # (K, C, P)
    error = (predicted - target).square().mean(1)  # (K, P)
    weight = masked[tile].to(error.dtype)
    return (error * weight).sum() / weight.sum()


class _Unscaled(nn.Module):
    """Undoes the op's scaling of a position table."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = math.sqrt(width)

    def forward(self, table: Tensor) -> Tensor:
        return table * self.factor


class _CrossBlock(CrossBlock):
    def collect(self, attended: Tensor) -> Tensor:
        return self.drop_path(super().collect(attended))


def _encoder(modality: Modality, dim: int, dropout: float, period: float) -> nn.Module:
    if modality.kind == "image" and not modality.name.endswith("-mono"):
        return ImageEncoder(modality.channels, modality.patch_size, dim)
    return SeriesEncoder(
        modality.channels * modality.patch_size**2,
        dim,
        dropout=dropout,
        normalise=modality.name.startswith("s2"),
        period=period,
    )


def _decoder(modality: Modality, dim: int, period: float) -> nn.Module:
    if modality.kind == "image" and not modality.name.endswith("-mono"):
        return ImageDecoder(modality.channels, modality.patch_size, dim)
    return SeriesDecoder(dim, modality.channels * modality.patch_size**2, period)
