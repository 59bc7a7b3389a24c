"""Random changes of a tile that leave its label what it is: turned ground, dates left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .modality import Modality
from .tiles import Tile

__all__ = ["Augmentation", "augment"]

_STILL = ((False, False, 0), (True, True, 2))  # flips and turns after which everything lies as before


@dataclass(frozen=True)
class Augmentation:
    """What random views are changed by, see :meth:`TileDataset.with_augmentation`.

    Attributes:
        flips: the tile is mirrored from left to right, and from top to bottom, each with probability one half.
        rotations: the tile is turned by 0, 90, 180 or 270 degrees, each as likely; its grid must be square.
        date_dropout: probability with which each valid date of each series is left out; one stays at least.

    Raises:
        ValueError: a probability outside 0..1 (1 excluded).
    """

    flips: bool = False
    rotations: bool = False
    date_dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.date_dropout < 1:
            raise ValueError(f"Augmentation: date_dropout is a probability from 0 to below 1, not {self.date_dropout}")

    @property
    def nothing(self) -> bool:
        """Whether it leaves every tile as it is."""
        return self == Augmentation()


def augment(
    tile: Tile, augmentation: Augmentation, modalities: Sequence[Modality], dense: bool, rng: np.random.Generator
) -> Tile:
    """The tile changed; one and the same movement of the ground for every modality and the label map.

    Args:
        modalities: those that the tile may have.
        dense: whether the label is a map, which moves with the ground.
        rng: of the view. As many numbers are drawn from it for every tile, whatever modalities it has.

    Returns:
        a new tile; without a place if the ground moved, since rows then no longer run from north to south.
    """
    across, down = (bool(flip) and augmentation.flips for flip in rng.integers(0, 2, 2))
    turns = int(rng.integers(0, 4)) if augmentation.rotations else 0
    if (across, down, turns) not in _STILL:

        def moved(pixels: Tensor) -> Tensor:
            axes = [axis for axis, flip in ((-1, across), (-2, down)) if flip]
            return torch.rot90(pixels.flip(axes), turns, (-2, -1)).contiguous()

        tile = replace(
            tile,
            values={name: moved(values) for name, values in tile.values.items()},
            observed={name: moved(observed) for name, observed in tile.observed.items()},
            label=moved(tile.label) if dense and tile.label is not None else tile.label,
            geo=None,
        )
    if augmentation.date_dropout:
        seeds = rng.integers(0, 2**32, len(modalities))
        for modality, seed in zip(modalities, seeds, strict=True):
            if modality.kind == "series" and modality.name in tile.values:
                tile = _without_dates(tile, modality.name, augmentation.date_dropout, np.random.default_rng(seed))
    return tile


def _without_dates(tile: Tile, name: str, probability: float, rng: np.random.Generator) -> Tile:
    valid = tile.valid[name].numpy()  # (L,)
    dropped = valid & (rng.random(len(valid)) < probability)
    if valid.any() and not (valid & ~dropped).any():
        dropped[rng.choice(np.flatnonzero(valid))] = False
    if not dropped.any():
        return tile
    kept = torch.from_numpy(~dropped)

    def of(part: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {key: value[kept] if key == name else value for key, value in part.items()}

    return replace(tile, values=of(tile.values), days=of(tile.days), valid=of(tile.valid), observed=of(tile.observed))
