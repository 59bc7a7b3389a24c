"""Features of places that were observed on different dates, made comparable before a probe learns from them.

What a frozen model says of a place depends on when it was observed: without winter images every feature is shifted, and
a linear probe from another place adds the shifts up. Two remedies, of which neither looks at a label: only months that
both grounds were observed in count, and every feature is standardised by its own mean and spread over the tiles of the
place. The second assumes that places are alike in the mean of what is sought: a difference between their means is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from fusion.data import TileDataset
from fusion.data.months import MONTHS, months_of
from fusion.data.spacing import evenly_spaced

from .features import Features

__all__ = ["Align", "Alignment", "aligned", "by_place", "common_months", "standardised_by_place"]

Align = Literal["auto", "places", "none"]
_LEAST = 16  # tiles of a place: of fewer, mean and spread say nothing
_LOOKED_AT = 256  # tiles of a ground; months are those of its acquisitions, which its tiles share
_SHORT = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Alignment:
    """Training and test tiles in the months that both have, and the places that features are standardised by.

    Attributes:
        places: (N,) of the training tiles, or None: nothing is standardised.
        test_places: (N,) of the test tiles.
        months: by series, those that count, where not all do.
    """

    train: TileDataset
    test: TileDataset
    places: np.ndarray | None = None
    test_places: np.ndarray | None = None
    months: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        """What was done, for the conditions of a table; empty where nothing was."""
        if self.places is None:
            return ""
        kept = "; ".join(f"{name} {', '.join(months)}" for name, months in self.months)
        told = f"; only months that both grounds were observed in count ({kept})" if kept else ""
        return (
            "features are standardised by place, over its tiles with and without labels, which assumes that places are "
            f"alike in the mean of what is sought{told}"
        )


def aligned(train: TileDataset, test: TileDataset, how: Align = "auto") -> Alignment:
    """Prepares training and test tiles of different places for a comparison.

    Args:
        how: ``"places"``: always; ``"auto"``: where the scenes of both are known, differ, and have 16 tiles or more
            each; ``"none"``: never.

    Raises:
        ValueError: ``"places"`` for data whose scenes are not known.
    """
    places, others = _scenes(train), _scenes(test)
    if how == "places" and (places is None or others is None):
        raise ValueError(
            f"aligned: the tiles of {type(train).__name__}, e.g. {train.names[0]}, have no scenes to standardise by; "
            "give data that a description splits into scenes, or 'none'"
        )
    if how == "none" or places is None or others is None:
        return Alignment(train, test)
    counts = np.concatenate([np.unique(part, return_counts=True)[1] for part in (places, others)])
    if how == "auto" and (np.isin(places, others).any() or counts.min() < _LEAST):
        return Alignment(train, test)
    months = common_months(train, test)
    named = tuple((name, tuple(_SHORT[k] for k in np.flatnonzero(kept))) for name, kept in months.items())
    return Alignment(train.with_months(months), test.with_months(months), places, others, named)


def standardised_by_place(x: np.ndarray, places: Sequence[str] | np.ndarray | None) -> np.ndarray:
    """(N, D) with mean 0 and standard deviation 1 of every column over the rows of each place; NaN stays, and a column
    that does not vary in a place is 0 there. As it is without places."""
    if places is None:
        return x
    out, of = np.array(x, dtype=np.result_type(x, np.float32)), np.asarray(places)
    for place in np.unique(of):
        rows = of == place
        own = out[rows]
        known = np.isfinite(own)
        count = np.maximum(known.sum(0), 1)
        mean = np.where(known, own, 0).sum(0) / count
        centred = own - mean
        spread = np.sqrt(np.square(np.where(known, centred, 0)).sum(0) / count)
        least = 1e-6 * np.maximum(np.abs(mean), 1e-6)  # what rounding leaves of a constant
        out[rows] = np.where(spread > least, centred / np.where(spread > least, spread, 1), np.where(known, 0, own))
    return out


def by_place(features: Features, places: np.ndarray | None) -> Features:
    """:func:`standardised_by_place` of features; those of patches have their tile's place."""
    if places is None:
        return features
    return replace(features, x=standardised_by_place(features.x, np.repeat(places, len(features) // len(places))))


def _observed_months(dataset: TileDataset) -> dict[str, np.ndarray]:
    """Of every series (12,) bool: the months with a valid date in at least half of the tiles that are looked at."""
    series = [m.name for m in dataset.modalities if m.kind == "series"]
    counts = {name: np.zeros(MONTHS) for name in series}
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
    ours, theirs = _observed_months(first), _observed_months(second)
    found = {name: ours[name] & theirs[name] for name in ours if name in theirs}
    return {name: months for name, months in found.items() if months.any() and not months.all()}


def _scenes(dataset: TileDataset) -> np.ndarray | None:
    """(N,) name of the scene of each tile, or None where it is not known."""
    ground = dataset.ground()
    return None if ground is None else np.array([name for name, _, _ in ground])
