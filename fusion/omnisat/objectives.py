"""What OmniSat is pretrained for: contrast between modalities (paper 3.2) and reconstruction (3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import patch_info_nce
from ..layers import masked_mean
from .alike import compared, counted_once, masked_as_one, same_in_all_patches, tell
from .combiner import merged
from .config import OmniSatConfig
from .image import ImageDecoder
from .losses import Losses, joined_mean, scaled_to_world, world
from .masking import MaskedTokens, Masking, draw_masked
from .model import OmniSat
from .pooling import some_maps
from .series import SeriesDecoder, select_dates
from .tokens import Tokens

__all__ = ["Exclude", "Losses", "PretrainingObjective", "Targets", "draw_masked", "patch_standardised"]

Targets = Literal["modality", "instance"]
Exclude = Literal["tile", "self", "modality", "place"]


def patch_standardised(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(unbiased variance + 1e-6) over ``dims``, each instance by its own statistics.

    An instance of one value becomes 0.
    """
    single = math.prod(values.shape[dim] for dim in dims) == 1
    var, mean = torch.var_mean(values, dims, correction=0 if single else 1, keepdim=True)
    return (values - mean) / (var + 1e-6).sqrt()


class PretrainingObjective(nn.Module):
    """Masks tokens, decodes what the model makes of the rest, and compares modalities token by token.

    Reconstruction is Eq. 5: the mean, over all masked tokens of all modalities, of the squared error per element
    of what the token stands for; of a series the quarter of the dates that got the most attention. Only masked
    patches and chosen dates are decoded.

    A modality with the same values in all patches of a tile (weather) is attended to and not contrasted; it is masked
    as one and counts once in the reconstruction, see :mod:`fusion.omnisat.alike`. One warning names it.

    The published code differs: it averages each modality by itself and adds these averages, averages images over
    all patches, and compares with instance-standardised values. The last is ``targets="instance"`` here (an image
    patch by its own mean and variance; a date of a series by those over all patches and bands of the tile), the
    whole is in :mod:`fusion.compat.omnisat`.

    Args:
        config: of the model.
        contrastive_weight, reconstruction_weight: of the two terms; one that is 0 is not computed.
        mask_ratio: share of a tile's tokens that are masked.
        masking: ``"token"``: any tokens of the tile, drawn jointly; ``"modality"``: whole modalities.
        masked_tokens: ``"replace"``: a learned token takes the place of a masked one; ``"drop"``: the combiner does
            not see masked tokens at all.
        exclude: what a token is not compared with, see :func:`fusion.kernels.patch_info_nce`: ``"tile"`` (Eq. 3),
            ``"self"`` (naive), ``"modality"`` (no negatives within a modality), ``"place"`` (the tile in every
            modality).
        temperature: of the contrastive loss.
        date_share: of a tile's valid dates that are reconstructed, those with the most attention; 1: no filtering.
        index_bypass: whether image decoders get the encoders' pooling positions.
        patch_scales: training draws one of these at each step: tokens then stand for so many patches per side, and
            the model can encode larger patches in use. Validation takes the first.
        targets: ``"modality"``: values standardised per band, as the encoders see them. ``"instance"``: above.
        share_negatives: train several processes (``torch.distributed``) on the losses of their joined batch: a
            token is compared with those of all of them, and averaging the processes' gradients, as
            DistributedDataParallel does, gives the gradient of one process with the joined batch (but batch
            normalisation keeps to the tiles of its process). Every process must take the same number of steps.
            False: each has losses of its own, as in validation. With one process there is no difference.
    """

    def __init__(
        self,
        config: OmniSatConfig,
        *,
        contrastive_weight: float = 1.0,
        reconstruction_weight: float = 1.0,
        mask_ratio: float = 0.75,
        masking: Masking = "token",
        masked_tokens: MaskedTokens = "replace",
        exclude: Exclude = "tile",
        temperature: float = 0.1,
        date_share: float = 0.25,
        index_bypass: bool = True,
        patch_scales: Sequence[int] = (1,),
        targets: Targets = "modality",
        share_negatives: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"PretrainingObjective: mask_ratio must lie between 0 and 1, not {mask_ratio}")
        if not 0 < date_share <= 1:
            raise ValueError(f"PretrainingObjective: date_share must lie in (0, 1], not {date_share}")
        if contrastive_weight <= 0 and reconstruction_weight <= 0:
            raise ValueError(
                "PretrainingObjective: one of contrastive_weight and reconstruction_weight must be positive"
            )
        for name, value, kind in (
            ("targets", targets, Targets),
            ("masking", masking, Masking),
            ("masked_tokens", masked_tokens, MaskedTokens),
            ("exclude", exclude, Exclude),
        ):
            if value not in get_args(kind):
                known = " or ".join(map(repr, get_args(kind)))
                raise ValueError(f"PretrainingObjective: {name} is {known}, not {value!r}")
        if masking == "modality" and len(config.modalities) < 2:
            raise ValueError(
                "PretrainingObjective: masking='modality' needs two modalities at least, the model has one"
            )
        reconstructs = reconstruction_weight > 0 and len(config.modalities) * config.patches > 1
        if not reconstructs and (contrastive_weight <= 0 or len(config.modalities) == 1):
            listed = ", ".join(m.name for m in config.modalities)
            raise ValueError(
                f"PretrainingObjective: of {listed} with {config.patches} patches a tile nothing is masked and nothing "
                "compared, so nothing would be learned; give another modality or smaller patches, reconstruct, or take "
                "objective='masked-dates', which learns from the dates of a single series"
            )
        for scale in patch_scales:
            merged(torch.empty(config.patches, 1), config.grid, scale)  # refuses one that does not divide the grid
        if not patch_scales:
            raise ValueError("PretrainingObjective: patch_scales is empty; (1,) trains on the model's own patches")
        self.contrastive_weight, self.reconstruction_weight = contrastive_weight, reconstruction_weight
        self.mask_ratio, self.masking, self.masked_tokens = mask_ratio, masking, masked_tokens
        self.exclude, self.temperature = exclude, temperature
        self.date_share, self.targets, self.share_negatives = date_share, targets, share_negatives
        self.grid, self.patch_scales = config.grid, tuple(patch_scales)
        self._told = False  # of modalities without differences between patches
        self.mask_token = nn.Parameter(torch.empty(config.dim).normal_(0, 0.02))
        self.decoders = nn.ModuleDict({m.name: _decoder(m, config, index_bypass) for m in config.modalities})

    def forward(self, model: OmniSat, batch: TileBatch, generator: torch.Generator | None = None) -> Losses:
        """One step's losses. ``generator`` (CPU) makes the masking reproducible."""
        seen = model.encode(batch)
        alike = same_in_all_patches(seen, model.config.patches)
        if self.training and not self._told:  # waits for a GPU once
            self._told = True
            tell(seen, alike)
        group = world(self.training and self.share_negatives)
        zero = seen.tokens.new_zeros((), dtype=torch.float32)
        reconstruction, errors = zero, {}
        if self.reconstruction_weight > 0:
            errors = self.reconstruct(model, seen, batch, generator, alike)  # each (R,): error, counts
            error, counted = (torch.cat(parts) for parts in zip(*errors.values(), strict=True))
            reconstruction = joined_mean(error, counted, group)
        contrastive, retrieval = self.contrast(seen, alike) if self.contrastive_weight > 0 else (zero, None)
        total = self.contrastive_weight * contrastive + self.reconstruction_weight * reconstruction
        total = scaled_to_world(total, group)
        by_modality = {name: masked_mean(*pair).detach() for name, pair in errors.items()}
        return Losses(total, contrastive, reconstruction, retrieval, by_modality)

    def reconstruct(
        self,
        model: OmniSat,
        seen: Tokens,
        batch: TileBatch,
        generator: torch.Generator | None,
        alike: Tensor | None = None,
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Of every modality the error of each masked patch, and whether it counts: (R,), (R,) bool."""
        alike = same_in_all_patches(seen, seen.tokens.shape[2]) if alike is None else alike
        scale = self._scale(generator)
        tokens = merged(seen.tokens, self.grid, scale)  # (M, B, P', D)
        modalities, tiles, places, _ = tokens.shape
        there = seen.valid.cpu() if self.masking == "modality" else None  # waits for a GPU
        masked = draw_masked(tiles, modalities, places, self.mask_ratio, generator, self.masking, there)
        hidden = masked_as_one(masked.to(tokens.device, non_blocking=True), alike)  # (M, B, P')
        valid = seen.valid
        if self.masked_tokens == "drop":
            valid = valid[..., None] & ~hidden
        else:
            tokens = torch.where(hidden[..., None], self.mask_token.to(tokens.dtype), tokens)
        encodings = model.combine(tokens, valid, patch_scale=scale, every_patch=True).patches  # (B, P, D)
        masked = self._by_patch(masked, scale)  # (M, B, P)
        errors = {}
        for m, name in enumerate(seen.names):
            rows = masked[m].flatten().nonzero()[:, 0].to(encodings.device, non_blocking=True)  # (R,) in B*P
            error, counts = self._errors(name, encodings, rows, seen, batch)
            errors[name] = error, counts & counted_once(alike[m], rows, encodings.shape[1])
        return errors

    def _scale(self, generator: torch.Generator | None) -> int:
        if not self.training or len(self.patch_scales) == 1:
            return self.patch_scales[0]
        return self.patch_scales[int(torch.randint(len(self.patch_scales), (), generator=generator))]

    def _by_patch(self, masked: Tensor, scale: int) -> Tensor:
        """(M, B, P') of tokens to (M, B, P) of the patches that they stand for."""
        rows, columns = self.grid
        coarse = masked.unflatten(2, (rows // scale, columns // scale))
        return coarse.repeat_interleave(scale, 2).repeat_interleave(scale, 3).flatten(2)

    def contrast(self, seen: Tokens, alike: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Eq. 3 (with the minus sign it lacks), cosine similarities; and the retrieval accuracy in evaluation."""
        if len(seen.names) == 1:  # nothing to compare with
            return seen.tokens.new_zeros((), dtype=torch.float32), None
        alike = same_in_all_patches(seen, seen.tokens.shape[2]) if alike is None else alike
        found = patch_info_nce(
            seen.tokens,
            temperature=self.temperature,
            valid=compared(seen, alike),
            exclude=self.exclude,
            group=world(self.training and self.share_negatives),
            return_accuracy=not self.training,
        )
        return found if isinstance(found, tuple) else (found, None)

    def _errors(
        self, name: str, encodings: Tensor, rows: Tensor, seen: Tokens, batch: TileBatch
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of each masked patch of one modality, and whether it counts: (R,), (R,) bool."""
        decoder, inputs = self.decoders[name], seen.patches[name]
        tile = rows // encodings.shape[1]  # (R,)
        tokens = encodings.flatten(0, 1)[rows]  # (R, D)
        valid = seen.valid[seen.names.index(name)]  # (B,)
        if isinstance(decoder, ImageDecoder):
            target = some_maps(inputs, rows)  # (R, C, s, s)
            if self.targets == "instance":
                target = patch_standardised(target, (1, 2, 3))
            predicted = decoder(tokens, [some_maps(index, rows) for index in seen.indices[name]])
            return (predicted.float() - target).square().mean((1, 2, 3)), valid[tile]
        dates, chosen = select_dates(seen.attention[name], batch.valid[name], self.date_share)  # (B, K)
        predicted = decoder(tokens, batch.days[name].gather(1, dates), tile)  # (R, K, C)
        if self.targets == "instance":
            index = dates[:, None, :, None].expand(-1, inputs.shape[1], -1, inputs.shape[3])
            target = patch_standardised(inputs.gather(2, index), (1, 3)).flatten(0, 1)[rows]  # (R, K, C)
        else:
            target = inputs.flatten(0, 1)[rows[:, None], dates[tile]]  # (R, K, C)
        error = (predicted.float() - target).square().mean(2)  # (R, K)
        weight = chosen.to(error.dtype)[tile]  # (R, K)
        return (error * weight).sum(1) / weight.sum(1).clamp_min(1), valid[tile]


def _decoder(modality: Modality, config: OmniSatConfig, index_bypass: bool) -> nn.Module:
    if modality.kind == "image":
        return ImageDecoder(modality.channels, modality.patch_size, config.dim, bypass=index_bypass)
    return SeriesDecoder(config.dim, modality.channels * modality.patch_size**2, config.period)
