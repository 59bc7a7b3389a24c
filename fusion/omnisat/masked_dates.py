"""Pretraining beyond the paper: dates are hidden, views of one sensor are contrasted, and the summary is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import patch_info_nce
from ..layers import draw_hidden_dates, masked_mean
from .alike import compared, counted_once, masked_as_one, same_in_all_patches
from .config import OmniSatConfig
from .image import ImageDecoder
from .losses import Losses, joined_mean, scaled_to_world, world
from .masking import draw_masked, drop_modalities
from .model import OmniSat
from .pooling import some_maps
from .season_decoder import SeasonDecoder
from .series import patchify_series
from .tokens import Tokens
from .views import split_dates

__all__ = ["MaskedDatesObjective"]

Errors = dict[str, tuple[Tensor, Tensor]]  # by modality: error (R,) and whether it counts, (R,) bool


class MaskedDatesObjective(nn.Module):
    """Learns what a place looks like on dates, and in modalities, that the model was not given.

    Where the paper's :class:`~fusion.omnisat.objectives.PretrainingObjective` hides patches and gives the encoders all
    dates, this one

    * hides dates of every series, a span of them or any (:func:`~fusion.layers.draw_hidden_dates`), and
      reconstructs them in every patch; of masked patches of images all pixels, as in the paper;
    * decodes series with products of token and day (:class:`~fusion.omnisat.season_decoder.SeasonDecoder`);
    * contrasts modality with modality, and the given dates of a series with its hidden ones: it learns from a single
      sensor, and from tiles of one patch;
    * leaves out whole modalities of some tiles;
    * reconstructs from the summary of a tile the mean over its patches, so that what fine-tuning reads is trained.

    Args:
        config: of the model.
        contrastive_weight, reconstruction_weight, summary_weight: of the three terms; one that is 0 is not computed.
        mask_ratio: share of a tile's tokens that are masked, on top of hidden dates.
        hidden_dates: share of the dates of each series that are hidden.
        modality_dropout: probability with which each modality of a tile is left out of what is combined; one stays.
        temperature: of the contrastive loss.
        share_negatives: as in the paper's objective.

    Raises:
        ValueError: a share outside its range, all weights 0, or a model of one image modality with one patch a tile:
            nothing could be hidden from it and nothing compared.
    """

    def __init__(
        self,
        config: OmniSatConfig,
        *,
        contrastive_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        summary_weight: float = 0.5,
        mask_ratio: float = 0.5,
        hidden_dates: float = 0.5,
        modality_dropout: float = 0.2,
        temperature: float = 0.1,
        share_negatives: bool = True,
    ) -> None:
        super().__init__()
        for name, share in (("mask_ratio", mask_ratio), ("hidden_dates", hidden_dates)):
            if not 0 < share < 1:
                raise ValueError(f"MaskedDatesObjective: {name} must lie between 0 and 1, not {share}")
        if not 0 <= modality_dropout < 1:
            raise ValueError(f"MaskedDatesObjective: modality_dropout must lie in [0, 1), not {modality_dropout}")
        if max(contrastive_weight, reconstruction_weight, summary_weight) <= 0:
            raise ValueError("MaskedDatesObjective: one of the three weights must be positive")
        series = [m for m in config.modalities if m.kind == "series"]
        if not series and len(config.modalities) * config.patches == 1:
            raise ValueError(
                f"MaskedDatesObjective: a single image of one patch ({config.modalities[0].name}) leaves nothing to "
                "hide and nothing to compare; give a second modality, a series, or smaller patches"
            )
        self.contrastive_weight, self.reconstruction_weight = contrastive_weight, reconstruction_weight
        self.summary_weight, self.mask_ratio, self.hidden_dates = summary_weight, mask_ratio, hidden_dates
        self.modality_dropout, self.temperature = modality_dropout, temperature
        self.share_negatives = share_negatives
        self.mask_token = nn.Parameter(torch.empty(config.dim).normal_(0, 0.02))
        self.decoders = nn.ModuleDict({m.name: _decoder(m, config) for m in config.modalities})
        images = [m for m in config.modalities if m.kind == "image"]
        self.means = nn.ModuleDict({m.name: nn.Linear(config.dim, 2 * m.channels) for m in images})

    def forward(self, model: OmniSat, batch: TileBatch, generator: torch.Generator | None = None) -> Losses:
        """One step's losses. ``generator`` (CPU) makes masks and hidden dates reproducible."""
        hidden = {
            name: draw_hidden_dates(batch.valid[name], self.hidden_dates, generator)
            for name in batch.days
            if name in self.decoders
        }
        given, rest = split_dates(batch, hidden)
        seen = model.encode(given)
        alike = same_in_all_patches(seen, model.config.patches)
        group = world(self.training and self.share_negatives)
        zero = seen.tokens.new_zeros((), dtype=torch.float32)
        contrastive, retrieval, reconstruction, summary = zero, None, zero, zero
        errors: Errors = {}
        if self.contrastive_weight > 0:
            contrastive, retrieval = self.contrast(seen, model.encode(rest) if hidden else None, alike)
        if self.reconstruction_weight > 0 or self.summary_weight > 0:
            errors, of_summary = self.reconstruct(model, seen, alike, batch, hidden, generator)
            reconstruction, summary = (_mean(found, group) for found in (errors, of_summary))
        total = (
            self.contrastive_weight * contrastive
            + self.reconstruction_weight * reconstruction
            + self.summary_weight * summary
        )
        by_modality = {name: masked_mean(*pair).detach() for name, pair in errors.items()}
        return Losses(scaled_to_world(total, group), contrastive, reconstruction, retrieval, by_modality)

    def contrast(self, seen: Tokens, rest: Tokens | None, alike: Tensor) -> tuple[Tensor, Tensor | None]:
        """Eq. 3 of the paper, the hidden dates of each series being one more modality."""
        tokens, valid = seen.tokens, compared(seen, alike)
        if rest is not None:
            same = alike[[seen.names.index(name) for name in rest.names]]
            tokens, valid = torch.cat((tokens, rest.tokens)), torch.cat((valid, compared(rest, same)))
        if len(tokens) == 1:  # one image: nothing to compare with
            return tokens.new_zeros((), dtype=torch.float32), None
        found = patch_info_nce(
            tokens,
            temperature=self.temperature,
            valid=valid,
            group=world(self.training and self.share_negatives),
            return_accuracy=not self.training,
        )
        return found if isinstance(found, tuple) else (found, None)

    def reconstruct(
        self,
        model: OmniSat,
        seen: Tokens,
        alike: Tensor,
        batch: TileBatch,
        hidden: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> tuple[Errors, Errors]:
        """Errors of patches, and of the summaries."""
        modalities, tiles, places, _ = seen.tokens.shape
        masked = draw_masked(tiles, modalities, places, self.mask_ratio, generator)  # (M, B, P)
        dropout = self.modality_dropout if self.training else 0.0
        valid = drop_modalities(seen.valid, dropout, generator)  # (M, B)
        at = masked_as_one(masked.to(seen.tokens.device, non_blocking=True), alike)
        tokens = torch.where(at[..., None], self.mask_token.to(seen.tokens.dtype), seen.tokens)
        encoded = model.combine(tokens, valid)
        errors, of_summary = {}, {}
        for m, name in enumerate(seen.names):
            there = batch.valid_tiles(name)  # (B,)
            if name in hidden:
                inputs = patchify_series(model.standardisation(batch, name), model.config.modality(name).patch_size)
                pair = self._series(name, encoded.summary, encoded.patches, inputs, batch, hidden[name])
                errors[name], of_summary[name] = pair
                rows = torch.arange(tiles * places, device=tokens.device)
            else:
                rows = masked[m].flatten().nonzero()[:, 0].to(tokens.device, non_blocking=True)  # (R,) in B*P
                errors[name] = self._image(name, encoded.patches, rows, seen, there)
                of_summary[name] = self._image_mean(name, encoded.summary, seen.patches[name], there)
            error, counts = errors[name]
            errors[name] = error, counts & counted_once(alike[m], rows, places)
        return errors, of_summary

    def _series(
        self, name: str, summary: Tensor, encodings: Tensor, inputs: Tensor, batch: TileBatch, hidden: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Of the hidden dates the error of every patch and of the mean of the patches: (B*P,), (B,), and what counts.

        Args:
            summary: (B, D). encodings: (B, P, D). inputs: (B, P, L, C) standardised. hidden: (B, L).
        """
        tiles, patches = encodings.shape[:2]
        most = max(1, math.ceil(self.hidden_dates * hidden.shape[1]))
        dates = hidden.float().topk(min(most, hidden.shape[1]), dim=1).indices  # (B, K): the hidden ones first
        weight = hidden.gather(1, dates)[:, None].to(torch.float32)  # (B, 1, K)
        chosen = batch.days[name].gather(1, dates)  # (B, K)
        index = dates[:, None, :, None].expand(-1, patches, -1, inputs.shape[-1])
        target = inputs.gather(2, index)  # (B, P, K, C)
        tile = torch.arange(tiles, device=encodings.device)
        together = torch.cat((summary[:, None], encodings), 1)  # (B, 1+P, D)
        predicted = self.decoders[name](together.flatten(0, 1), chosen, tile.repeat_interleave(1 + patches))
        wanted = torch.cat((target.mean(1, keepdim=True), target), 1)  # (B, 1+P, K, C)
        error = (predicted.float().view_as(wanted) - wanted).square().mean(3)  # (B, 1+P, K)
        error = (error * weight).sum(2) / weight.sum(2).clamp_min(1)  # (B, 1+P)
        counts = hidden.any(1)  # (B,)
        of_patches = error[:, 1:].flatten(), counts.repeat_interleave(patches)
        return of_patches, (error[:, 0], counts)

    def _image(self, name: str, encodings: Tensor, rows: Tensor, seen: Tokens, there: Tensor) -> tuple[Tensor, Tensor]:
        """Error of each masked patch (R,), and whether it counts."""
        target = some_maps(seen.patches[name], rows)  # (R, C, s, s)
        indices = [some_maps(index, rows) for index in seen.indices[name]]
        predicted = self.decoders[name](encodings.flatten(0, 1)[rows], indices)
        return (predicted.float() - target).square().mean((1, 2, 3)), there[rows // encodings.shape[1]]

    def _image_mean(self, name: str, summary: Tensor, patches: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """Error (B,) of mean and deviation of each band over the tile."""
        pixels = patches.flatten(2).unflatten(0, (len(summary), -1)).transpose(1, 2).flatten(2)  # (B, C, P*s*s)
        wanted = torch.cat((pixels.mean(2), pixels.std(2, correction=0)), 1)  # (B, 2C)
        return (self.means[name](summary).float() - wanted).square().mean(1), there


def _mean(errors: Errors, group: dist.ProcessGroup | None) -> Tensor:
    values, counts = (torch.cat(part) for part in zip(*errors.values(), strict=True))
    return joined_mean(values, counts, group)


def _decoder(modality: Modality, config: OmniSatConfig) -> nn.Module:
    if modality.kind == "image":
        return ImageDecoder(modality.channels, modality.patch_size, config.dim)
    return SeasonDecoder(config.dim, modality.channels * modality.patch_size**2, config.period)
