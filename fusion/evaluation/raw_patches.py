"""The control of patches: what the bands alone say of a patch, in the place of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fusion.data import Modality, TileBatch
from fusion.data.year import part_of_year
from fusion.layers.encoding import Encoding
from fusion.training.systems import config_of

__all__ = ["RawPatches"]


class RawPatches(nn.Module):
    """Mean and standard deviation of every band over the pixels of a patch, and of a series also over its dates, with
    the mean of each season (the year cut into equal parts).

    A season without a date is NaN, as is all of a modality that a tile does not have: whoever learns from it takes the
    mean of what it learned from.

    Args:
        model: the encoder beside which it stands; it takes the same data.
        modalities: that are described.
    """

    def __init__(self, model: nn.Module, modalities: tuple[Modality, ...], seasons: int = 4) -> None:
        super().__init__()
        self.config, self.modalities, self.seasons = config_of(model), modalities, seasons

    def forward(self, batch: TileBatch) -> Encoding:
        """Patches (B, P, D), and their mean."""
        parts = [self._of(batch, modality) for modality in self.modalities]
        patches = torch.cat(parts, dim=-1).float()
        return Encoding(patches.nanmean(1), patches)

    def _of(self, batch: TileBatch, modality: Modality) -> Tensor:
        """(B, P, D) of one modality."""
        tiles, patches = len(batch), self.config.grid[0] * self.config.grid[1]
        series = modality.kind == "series"
        size = modality.channels * (2 + self.seasons * series)
        device = next(iter(batch.valid.values())).device
        absent = torch.full((tiles, patches, size), torch.nan, dtype=torch.float64, device=device)
        if modality.name not in batch.values:
            return absent
        values, side = batch.values[modality.name].double(), modality.patch_size
        cut = values.unflatten(-1, (-1, side)).unflatten(-3, (-1, side))  # (B, [L,] C, rows, side, columns, side)
        mean, square = (part.mean((-3, -1)).flatten(-2).transpose(-2, -1) for part in (cut, cut**2))  # (B, [L,] P, C)
        valid = batch.valid[modality.name]
        if not series:
            told = torch.cat([mean, (square - mean**2).clamp_min(0).sqrt()], -1)
            return torch.where(valid[:, None, None], told, absent)
        season = part_of_year(batch.days[modality.name], self.seasons)  # (B, L)
        overall, spread = (_over_dates(part, valid) for part in (mean, square))
        columns = [overall, (spread - overall**2).clamp_min(0).sqrt()]
        columns += [_over_dates(mean, valid & (season == s)) for s in range(self.seasons)]
        return torch.cat(columns, -1)


def _over_dates(values: Tensor, dates: Tensor) -> Tensor:
    """(B, P, C) the mean of (B, L, P, C) over some dates (B, L), NaN where there is none."""
    weight = dates[..., None, None].to(values.dtype)
    return (values * weight).sum(1) / weight.sum(1)
