"""What a batch is to a baseline: the tiles that have a modality, standardised; the others take no part."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.tiles import TileBatch
from ..layers import Standardisation
from .config import BaselineConfig

__all__ = ["Baseline", "Series"]


class Series(NamedTuple):
    """A series of the N tiles that have it, without the dates that none of them may use.

    Attributes:
        values: (N, L, C, H, W) standardised, 0 where not observed.
        days: (N, L).
        valid: (N, L) bool; every tile has a date.
        observed: (N, L, H, W) bool, pixels with all bands.
    """

    values: Tensor
    days: Tensor
    valid: Tensor
    observed: Tensor


class Baseline(nn.Module):
    """A model whose parts see only tiles that have a modality.

    Statistics of batch normalisations are then those of tiles that are there, and what a missing modality or a padded
    date holds can have no influence at all.
    """

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__()
        self.config = config
        self.standardisation = Standardisation(config)

    def _rows(self, batch: TileBatch, name: str) -> Tensor | None:
        """(B,) bool: tiles with modality ``name``; None if there is none."""
        if name not in batch.values:
            return None
        rows = batch.valid_tiles(name)
        return rows if bool(rows.any()) else None

    def _values(self, batch: TileBatch, name: str) -> Tensor:
        """Standardised values (B, [L,] C, H, W), 0 where not valid or not observed."""
        values = self.standardisation(batch, name)
        observed = batch.observed.get(name)
        return values if observed is None else values.masked_fill(~observed, 0)

    def _series(self, batch: TileBatch, name: str, rows: Tensor) -> Series:
        """The series of the tiles ``rows`` (B,)."""
        values, valid = self._values(batch, name)[rows], batch.valid[name][rows]
        used = valid.any(0)  # (L,)
        values, valid = values[:, used], valid[:, used]
        observed = valid[:, :, None, None].expand(*valid.shape, *values.shape[-2:])
        if name in batch.observed:
            observed = observed & batch.observed[name][rows][:, used].all(2)
        return Series(values, batch.days[name][rows][:, used], valid, observed)

    def _spread(self, part: Tensor, rows: Tensor) -> Tensor:
        """(N, ...) of the tiles ``rows`` (B,) -> (B, ...), 0 for the other tiles."""
        out = part.new_zeros(len(rows), *part.shape[1:])
        out[rows] = part
        return out

    def _nothing(self, batch: TileBatch, *shape: int) -> Tensor:
        """(B, *shape) zeros: what is known of a modality that no tile has."""
        return torch.zeros(len(batch), *shape, device=next(self.parameters()).device)
