"""What OmniSat is pretrained for: contrast between modalities (paper 3.2) and reconstruction (3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..kernels import patch_info_nce
from ..kernels.infonce.distributed import joined_sum
from ..layers import masked_mean
from .config import OmniSatConfig
from .image import ImageDecoder
from .model import OmniSat, Tokens
from .series import SeriesDecoder, select_dates

__all__ = ["Losses", "PretrainingObjective", "draw_masked", "patch_standardised"]

Targets = Literal["modality", "instance"]


def draw_masked(
    tiles: int, modalities: int, patches: int, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """(M, B, P) bool: which tokens to hide, ``ratio`` of the M*P tokens of each tile, drawn jointly; never all.

    Drawn on the CPU, so that the numbers of masked patches are known without waiting for a GPU.
    """
    tokens = modalities * patches
    order = torch.rand(tiles, tokens, generator=generator).argsort(1)
    hidden = torch.ones(tiles, tokens, dtype=torch.bool)
    hidden.scatter_(1, order[:, : max(1, int((1 - ratio) * tokens))], False)
    return hidden.view(tiles, modalities, patches).transpose(0, 1)


def patch_standardised(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(unbiased variance + 1e-6) over ``dims``, each instance by its own statistics.

    An instance of one value becomes 0.
    """
    single = math.prod(values.shape[dim] for dim in dims) == 1
    var, mean = torch.var_mean(values, dims, correction=0 if single else 1, keepdim=True)
    return (values - mean) / (var + 1e-6).sqrt()


@dataclass
class Losses:
    """Terms of one pretraining step, all scalars.

    ``retrieval`` is the share of tokens whose most similar token in the denominator of the contrastive loss is
    the same patch in another modality (validation only). ``by_modality`` are mean reconstruction errors.
    """

    total: Tensor
    contrastive: Tensor
    reconstruction: Tensor
    retrieval: Tensor | None
    by_modality: dict[str, Tensor]


class PretrainingObjective(nn.Module):
    """Masks tokens, decodes what the model makes of the rest, and compares modalities token by token.

    Reconstruction is Eq. 5: the mean, over all masked tokens of all modalities, of the squared error per element
    of what the token stands for; of a series the quarter of the dates that got the most attention. Only masked
    patches and chosen dates are decoded.

    The published code differs: it averages each modality by itself and adds these averages, averages images over
    all patches, and compares with instance-standardised values. The last is ``targets="instance"`` here (an image
    patch by its own mean and variance; a date of a series by those over all patches and bands of the tile), the
    whole is in :mod:`fusion.compat.omnisat`.

    Args:
        config: of the model.
        contrastive_weight, reconstruction_weight: of the two terms.
        mask_ratio: share of a tile's tokens that are hidden from the combiner.
        temperature: of the contrastive loss.
        date_share: of a tile's valid dates that are reconstructed.
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
        temperature: float = 0.1,
        date_share: float = 0.25,
        targets: Targets = "modality",
        share_negatives: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < mask_ratio < 1:
            raise ValueError(f"PretrainingObjective: mask_ratio must lie between 0 and 1, not {mask_ratio}")
        if targets not in ("modality", "instance"):
            raise ValueError(f"PretrainingObjective: targets is 'modality' or 'instance', not {targets!r}")
        self.contrastive_weight, self.reconstruction_weight = contrastive_weight, reconstruction_weight
        self.mask_ratio, self.temperature = mask_ratio, temperature
        self.date_share, self.targets, self.share_negatives = date_share, targets, share_negatives
        self.mask_token = nn.Parameter(torch.empty(config.dim).normal_(0, 0.02))
        self.decoders = nn.ModuleDict({m.name: _decoder(m, config) for m in config.modalities})

    def forward(self, model: OmniSat, batch: TileBatch, generator: torch.Generator | None = None) -> Losses:
        """One step's losses. ``generator`` (CPU) makes the masking reproducible."""
        seen = model.encode(batch)
        modalities, tiles, patches, _ = seen.tokens.shape
        masked = draw_masked(tiles, modalities, patches, self.mask_ratio, generator)  # (M, B, P), on the CPU
        hidden = masked.to(seen.tokens.device, non_blocking=True)[..., None]
        tokens = torch.where(hidden, self.mask_token.to(seen.tokens.dtype), seen.tokens)
        encodings = model.combine(tokens, seen.valid).patches  # (B, P, D)

        errors = {}
        for m, name in enumerate(seen.names):
            rows = masked[m].flatten().nonzero()[:, 0].to(encodings.device, non_blocking=True)  # (R,) in B*P
            errors[name] = self._errors(name, encodings, rows, seen, batch)  # each (R,): error, counts
        error, counted = (torch.cat(parts) for parts in zip(*errors.values(), strict=True))
        group = self._group()
        reconstruction = masked_mean(error, counted) if group is None else _joined_mean(error, counted, group)
        contrastive, retrieval = self.contrast(seen)
        total = self.contrastive_weight * contrastive + self.reconstruction_weight * reconstruction
        if group is not None:  # gradients add up to that of the joined batch, but will be averaged
            total = total + (dist.get_world_size(group) - 1) * (total - total.detach())
        by_modality = {name: masked_mean(*pair).detach() for name, pair in errors.items()}
        return Losses(total, contrastive, reconstruction, retrieval, by_modality)

    def contrast(self, seen: Tokens) -> tuple[Tensor, Tensor | None]:
        """Eq. 3 (with the minus sign it lacks), cosine similarities; and the retrieval accuracy in evaluation."""
        if len(seen.names) == 1:  # nothing to compare with
            return seen.tokens.new_zeros((), dtype=torch.float32), None
        found = patch_info_nce(
            seen.tokens,
            temperature=self.temperature,
            valid=seen.valid,
            exclude="tile",
            group=self._group(),
            return_accuracy=not self.training,
        )
        return found if isinstance(found, tuple) else (found, None)

    def _group(self) -> dist.ProcessGroup | None:
        """The processes that this one is trained together with."""
        if not (self.training and self.share_negatives and dist.is_available() and dist.is_initialized()):
            return None
        return dist.group.WORLD if dist.get_world_size() > 1 else None

    def _errors(
        self, name: str, encodings: Tensor, rows: Tensor, seen: Tokens, batch: TileBatch
    ) -> tuple[Tensor, Tensor]:
        """Mean squared error of each masked patch of one modality, and whether it counts: (R,), (R,) bool."""
        decoder, inputs = self.decoders[name], seen.patches[name]
        tile = rows // encodings.shape[1]  # (R,)
        tokens = encodings.flatten(0, 1)[rows]  # (R, D)
        valid = seen.valid[seen.names.index(name)]  # (B,)
        if isinstance(decoder, ImageDecoder):
            target = _rows(inputs, rows)  # (R, C, s, s)
            if self.targets == "instance":
                target = patch_standardised(target, (1, 2, 3))
            predicted = decoder(tokens, [_rows(index, rows) for index in seen.indices[name]])
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


def _joined_mean(values: Tensor, valid: Tensor, group: dist.ProcessGroup) -> Tensor:
    """:func:`masked_mean` over all processes."""
    weight = valid.to(values.dtype)
    total, count = (joined_sum(x, group) for x in ((values * weight).sum(), weight.sum()))
    return total / count.clamp_min(1)


def _rows(maps: Tensor, rows: Tensor) -> Tensor:
    """Some of the N maps (N, C, H, W), channels-last before and after."""
    return maps.permute(0, 2, 3, 1)[rows].permute(0, 3, 1, 2)


def _decoder(modality: Modality, config: OmniSatConfig) -> nn.Module:
    if modality.kind == "image":
        return ImageDecoder(modality.channels, modality.patch_size, config.dim)
    return SeriesDecoder(config.dim, modality.channels * modality.patch_size**2, config.period)
