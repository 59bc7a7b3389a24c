"""Months of the year, and tiles with the dates of some months alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from .tiles import Tile
from .year import part_of_year

__all__ = ["MONTHS", "in_months", "months_of"]

MONTHS = 12


def months_of(days: torch.Tensor) -> torch.Tensor:
    """Twelfth of the year, 0 to 11, of days since a 1 January, in whatever year."""
    return part_of_year(days, MONTHS).long()


def in_months(tile: Tile, months: Mapping[str, np.ndarray]) -> Tile:
    """The tile with only the dates of each series that lie in its ``months``, (12,) bool; others are not valid."""
    valid = dict(tile.valid)
    for name, kept in months.items():
        if name in tile.days:
            there = tile.valid.get(name, torch.ones(len(tile.days[name]), dtype=torch.bool))
            valid[name] = there & torch.from_numpy(kept)[months_of(tile.days[name])]
    return replace(tile, valid=valid)
