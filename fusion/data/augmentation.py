"""Random changes of a tile that leave its label what it is: turned ground, dates and modalities left out, values and
days that are a little others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .modality import Modality
from .tiles import Tile

__all__ = ["Augmentation", "augment", "with_deviations"]

_YES = torch.ones(1, dtype=torch.bool)
_STILL = ((False, False, 0), (True, True, 2))  # flips and turns after which everything lies as before


@dataclass(frozen=True)
class Augmentation:
    """What random views are changed by, see :meth:`TileDataset.with_augmentation`.

    Attributes:
        flips: the tile is mirrored from left to right, and from top to bottom, each with probability one half.
        rotations: the tile is turned by 0, 90, 180 or 270 degrees, each as likely; its grid must be square.
        date_dropout: probability with which each valid date of each series is left out; one stays at least.
        span_dropout: of each series a run of neighbouring dates is left out, up to this share of its dates; how many,
            and where it begins, is drawn anew. One valid date stays at least.
        modality_dropout: probability with which each modality is left out; one that the tile has stays at least.
        gain: the deviation of each band from its mean is taken times a factor within 1 - gain and 1 + gain.
        offset: each band is moved by at most so many of its standard deviations. Gain and offset of a band are the
            same on all dates and pixels of a tile, as those of an instrument or of the ground.
        shift_days: all series of the tile are moved by the same whole number of days, at most so many, earlier or
            later.

    Raises:
        ValueError: a probability outside 0..1 (1 excluded), a gain that could turn a band over, or a negative offset or
            number of days.
    """

    flips: bool = False
    rotations: bool = False
    date_dropout: float = 0.0
    span_dropout: float = 0.0
    modality_dropout: float = 0.0
    gain: float = 0.0
    offset: float = 0.0
    shift_days: int = 0

    def __post_init__(self) -> None:
        for name in ("date_dropout", "span_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                kind = "share" if name == "span_dropout" else "probability"
                raise ValueError(f"Augmentation: {name} is a {kind} from 0 to below 1, not {getattr(self, name)}")
        if not 0 <= self.gain < 1:
            raise ValueError(f"Augmentation: gain is from 0 to below 1, not {self.gain}")
        if not 0 <= self.offset < float("inf"):
            raise ValueError(f"Augmentation: offset is a number of standard deviations of 0 or more, not {self.offset}")
        if isinstance(self.shift_days, bool) or self.shift_days != int(self.shift_days) or self.shift_days < 0:
            raise ValueError(f"Augmentation: shift_days is a whole number of days of 0 or more, not {self.shift_days}")

    @property
    def nothing(self) -> bool:
        """Whether it leaves every tile as it is."""
        return self == Augmentation()

    @property
    def of_values(self) -> bool:
        """Whether it changes values, for which means and deviations of the bands must be known."""
        return bool(self.gain or self.offset)


def augment(
    tile: Tile, augmentation: Augmentation, modalities: Sequence[Modality], dense: bool, rng: np.random.Generator
) -> Tile:
    """The tile changed; one and the same movement of the ground for every modality and the label map.

    Args:
        modalities: those that the tile may have; with statistics of their bands where values are changed.
        dense: whether the label is a map, which moves with the ground.
        rng: of the view. As many numbers are drawn from it for every tile, whatever modalities it has.

    Returns:
        a new tile; without a place if the ground moved, since rows then no longer run from north to south.
    """
    tile = _with_own_tables(tile)
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
    series = [modality.kind == "series" and modality.name in tile.values for modality in modalities]
    if augmentation.date_dropout:
        for modality, own in _streams(modalities, rng, series):
            _leave_out_dates(tile, modality.name, augmentation.date_dropout, own)
    if augmentation.span_dropout:
        for modality, own in _streams(modalities, rng, series):
            _leave_out_span(tile, modality.name, augmentation.span_dropout, own)
    if augmentation.modality_dropout:
        dropped = rng.random(len(modalities)) < augmentation.modality_dropout
        _leave_out_modalities(tile, [m.name for m in modalities], dropped, int(rng.integers(0, 2**31)))
    if augmentation.shift_days:
        most = int(augmentation.shift_days)
        moved_by = int(rng.integers(-most, most + 1))
        tile.days = {name: days + moved_by for name, days in tile.days.items()}
    if augmentation.of_values:
        for modality, own in _streams(modalities, rng, [modality.name in tile.values for modality in modalities]):
            tile.values[modality.name] = _with_jitter(tile.values[modality.name], modality, augmentation, own)
    return tile


def with_deviations(
    modalities: Sequence[Modality], statistics: Sequence[Modality], augmentation: Augmentation
) -> dict[str, Modality]:
    """By name, modalities with means and deviations of their bands: those of ``statistics``, else their own.

    Raises:
        ValueError: the augmentation changes values, and of one modality none are known.
    """
    known = {m.name: m for m in (*modalities, *statistics) if m.mean and m.std}
    missing = [m.name for m in modalities if m.name not in known]
    if augmentation.of_values and missing:
        raise ValueError(
            "with_augmentation: gain and offset are in units of the deviations of bands, which are not known of "
            f"{', '.join(missing)}; give statistics=fusion.data.fit_statistics(tiles)"
        )
    return known


def _with_own_tables(tile: Tile) -> Tile:
    """The same tile, of which tensors can be exchanged."""
    return replace(
        tile, values=dict(tile.values), days=dict(tile.days), valid=dict(tile.valid), observed=dict(tile.observed)
    )


def _tables(tile: Tile) -> tuple[dict[str, Tensor], ...]:
    return tile.values, tile.days, tile.valid, tile.observed


def _streams(
    modalities: Sequence[Modality], rng: np.random.Generator, wanted: Sequence[bool]
) -> Iterator[tuple[Modality, np.random.Generator]]:
    """Each modality that is wanted with random numbers of its own, the same whatever the others draw."""
    seeds = rng.integers(0, 2**32, len(modalities))
    for modality, seed, this in zip(modalities, seeds, wanted, strict=True):
        if this:
            yield modality, np.random.default_rng(seed)


def _leave_out_dates(tile: Tile, name: str, probability: float, rng: np.random.Generator) -> None:
    valid = tile.valid[name].numpy()  # (L,)
    _leave_out(tile, name, valid & (rng.random(len(valid)) < probability), rng)


def _leave_out_span(tile: Tile, name: str, share: float, rng: np.random.Generator) -> None:
    valid = tile.valid[name].numpy()  # (L,)
    length = int(rng.integers(0, int(share * len(valid)) + 1))
    first = int(rng.integers(0, len(valid) - length + 1))
    inside = np.zeros(len(valid), dtype=bool)
    inside[first : first + length] = True
    _leave_out(tile, name, valid & inside, rng)


def _leave_out(tile: Tile, name: str, dropped: np.ndarray, rng: np.random.Generator) -> None:
    """The dates ``dropped`` (L,) of a series, but for one, drawn at random, if no valid one were left."""
    valid = tile.valid[name].numpy()
    if valid.any() and not (valid & ~dropped).any():
        dropped[rng.choice(np.flatnonzero(valid))] = False
    if not dropped.any():
        return
    kept = np.flatnonzero(~dropped)
    for table in _tables(tile):
        if name in table:  # NumPy, which takes a third of torch's time for so few numbers
            table[name] = torch.from_numpy(table[name].numpy()[kept])


def _leave_out_modalities(tile: Tile, names: Sequence[str], dropped: np.ndarray, choice: int) -> None:
    """Those of ``dropped`` (M,); if that were all that have a valid value, one of them stays by ``choice``."""
    usable = [name for name in names if name in tile.values and bool(tile.valid.get(name, _YES).any())]
    gone = {name for name, drop in zip(names, dropped, strict=True) if drop}
    if usable and gone.issuperset(usable):
        gone.remove(usable[choice % len(usable)])
    for table in _tables(tile):
        for name in gone.intersection(table):
            del table[name]


def _with_jitter(values: Tensor, modality: Modality, augmentation: Augmentation, rng: np.random.Generator) -> Tensor:
    """Values (..., C, H, W): x + g * (x - mean) + o * std, with g and o of each band, uniform within their limits."""
    gain, offset = augmentation.gain, augmentation.offset
    g, o = rng.uniform(-gain, gain, modality.channels), rng.uniform(-offset, offset, modality.channels)
    mean, std = np.array(modality.mean), np.array(modality.std)
    factor, summand = (row.astype(np.float32)[:, None, None] for row in (1 + g, o * std - g * mean))
    return torch.from_numpy(values.numpy() * factor + summand)
