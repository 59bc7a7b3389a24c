"""Which months of the year series were observed in, and tiles with the dates of some months alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .spacing import evenly_spaced
from .tiles import YEAR, Tile

if TYPE_CHECKING:
    from .dataset import TileDataset

__all__ = ["common_months", "in_months", "months_of", "observed_months"]

_MONTHS = 12
_LOOKED_AT = 256  # tiles of a data set; months are those of its acquisitions, which its tiles share


def months_of(days: torch.Tensor) -> torch.Tensor:
    """Twelfth of the year, 0 to 11, of days since a 1 January, in whatever year."""
    return (days % YEAR * _MONTHS / YEAR).long().clamp_max(_MONTHS - 1)


def in_months(tile: Tile, months: Mapping[str, np.ndarray]) -> Tile:
    """The tile with only the dates of each series that lie in its ``months``, (12,) bool; others are not valid."""
    valid = dict(tile.valid)
    for name, kept in months.items():
        if name in tile.days:
            there = tile.valid.get(name, torch.ones(len(tile.days[name]), dtype=torch.bool))
            valid[name] = there & torch.from_numpy(kept)[months_of(tile.days[name])]
    return replace(tile, valid=valid)


def observed_months(dataset: TileDataset) -> dict[str, np.ndarray]:
    """Of every series (12,) bool: the months with a valid date in at least half of the tiles that are looked at."""
    series = [m.name for m in dataset.modalities if m.kind == "series"]
    counts = {name: np.zeros(_MONTHS) for name in series}
    some = evenly_spaced(len(dataset), _LOOKED_AT)
    for i in some:
        tile = dataset[int(i)]
        for name in series:
            if name in tile.days:
                valid = tile.valid.get(name, torch.ones(len(tile.days[name]), dtype=torch.bool))
                counts[name][np.unique(months_of(tile.days[name])[valid].numpy())] += 1
    return {name: 2 * count >= len(some) for name, count in counts.items()}


def common_months(first: TileDataset, second: TileDataset) -> dict[str, np.ndarray]:
    """Of every series that both data sets have (12,) bool: the months that both were observed in.

    A series without a common month is left as it is: nothing of it could be compared.
    """
    ours, theirs = observed_months(first), observed_months(second)
    found = {name: ours[name] & theirs[name] for name in ours if name in theirs}
    return {name: months for name, months in found.items() if months.any() and not months.all()}
