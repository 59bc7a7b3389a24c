"""One tile, and a batch of them: the shape in which every reader hands data to every model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .year import part_of_year

__all__ = ["Geo", "Tile", "TileBatch", "collate", "values_by_band"]


@dataclass(frozen=True)
class Geo:
    """Where a tile lies: the affine transform of the pixels of its coarsest modality, and its CRS.

    ``transform`` is (a, b, c, d, e, f) with x = a*col + b*row + c and y = d*col + e*row + f, north up (e < 0).
    """

    transform: tuple[float, float, float, float, float, float]
    crs: str


@dataclass
class Tile:
    """One tile as a reader returns it. A modality that was not observed is absent from ``values``.

    Attributes:
        name: identifies the tile in its data set.
        values: image (C,H,W) or series (L,C,H,W), float32. NaN never appears: it is replaced by 0 and marked.
        days: series only, (L,) int64, whole days since ``origin``: 0 is 1 January of the year of the series.
        valid: series only, (L,) bool; False for a date that must not be used.
        label: class index, multi-hot vector or regression target, or None.
        geo: where the tile lies, or None where unknown.
        observed: bool of the shape of the values, False for a value that was not measured. Only where a system asks
            which values were; without it every value of an image or of a valid date counts as observed.
        origin: 1 January of the year in which the tile's series begin, datetime64[D]; None where the year is unknown.
    """

    name: str
    values: dict[str, Tensor]
    days: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    geo: Geo | None = None
    observed: dict[str, Tensor] = field(default_factory=dict)
    origin: np.datetime64 | None = None


@dataclass
class TileBatch:
    """B tiles, padded to common lengths.

    Attributes:
        values: ``values[name]`` is (B,C,H,W) for an image and (B,L,C,H,W) for a series; 0 where not observed.
        days: ``days[name]`` (B,L) int64, whole days since the tile's ``origin``; 0 where padded. :meth:`dates` gives
            calendar dates.
        valid: ``valid[name]`` bool, (B,) for an image and (B,L) for a series; a missing modality or date is
            False, never a magic number.
        labels: (B,) int64, (B,K) float multi-hot or (B,T) float targets, or None.
        names: B tile names.
        geo: B places, or None where unknown.
        observed: ``observed[name]`` bool of the shape of ``values[name]``, where a reader tells it by pixel and band;
            False where padded. A modality without it was observed wherever it is valid.
        origin: B times 1 January of the year in which the tile's series begin, or None where unknown.
    """

    values: dict[str, Tensor]
    days: dict[str, Tensor]
    valid: dict[str, Tensor]
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    geo: tuple[Geo | None, ...] = ()
    observed: dict[str, Tensor] = field(default_factory=dict)
    origin: tuple[np.datetime64 | None, ...] = ()

    def __len__(self) -> int:
        return next(iter(self.valid.values())).shape[0]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.values)

    def valid_tiles(self, name: str) -> Tensor:
        """(B,) bool: which tiles have modality ``name`` at all."""
        valid = self.valid[name]
        return valid if valid.ndim == 1 else valid.any(dim=1)

    present = valid_tiles  # its former name

    def dates(self, name: str) -> np.ndarray:
        """(B, L) datetime64[D]: the calendar dates of a series, NaT where not valid or where the year is unknown.

        Raises:
            KeyError: the batch has no series ``name``.
        """
        if name not in self.days:
            raise KeyError(f"batch has no series {name}; it has {', '.join(self.days)}")
        unknown = np.datetime64("NaT", "D")
        origin = np.array([start or unknown for start in self.origin or [None] * len(self)], dtype="datetime64[D]")
        dates: np.ndarray = origin[:, None] + self.days[name].cpu().numpy().astype("timedelta64[D]")
        return np.where(self.valid[name].cpu().numpy(), dates, unknown)

    def select(self, names: Sequence[str]) -> TileBatch:
        """The same tiles with only the modalities ``names``, in that order."""
        unknown = [n for n in names if n not in self.values]
        if unknown:
            raise KeyError(f"batch has no modality {', '.join(unknown)}; it has {', '.join(self.values)}")
        return self._with(lambda part: {n: part[n] for n in names if n in part}, lambda labels: labels)

    def part_of_year(self, part: int, parts: int) -> TileBatch:
        """The same tiles with only the dates in one of ``parts`` equal parts of the year, part 0 from 1 January, in
        whatever year; images stay."""
        inside = {n: part_of_year(days, parts) == part for n, days in self.days.items()}
        return replace(self, valid={n: v & inside[n] if n in inside else v for n, v in self.valid.items()})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TileBatch:
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> TileBatch:
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> TileBatch:
        """The batch with every tensor changed."""
        return self._with(lambda part: {name: change(tensor) for name, tensor in part.items()}, change)

    def _with(
        self, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], relabel: Callable[[Tensor], Tensor]
    ) -> TileBatch:
        return replace(
            self,
            values=change(self.values),
            days=change(self.days),
            valid=change(self.valid),
            observed=change(self.observed),
            labels=None if self.labels is None else relabel(self.labels),
        )


def collate(tiles: Sequence[Tile], modalities: Sequence[str] | None = None) -> TileBatch:
    """Stacks tiles, padding series at the end and marking padding and missing modalities as not valid.

    ``modalities`` fixes which ones and in what order (default: all, in order of first appearance). A modality
    that no tile has is left out.

    Raises:
        ValueError: tiles differ in channels or size of a modality, only some have labels, or nothing at all was
            observed in any of them.
    """
    if not tiles:
        raise ValueError("collate: no tiles given")
    names = list(modalities if modalities is not None else dict.fromkeys(n for tile in tiles for n in tile.values))
    batch = TileBatch({}, {}, {}, None, tuple(t.name for t in tiles), tuple(t.geo for t in tiles))
    batch.origin = tuple(t.origin for t in tiles)
    for name in names:
        having = [tile for tile in tiles if name in tile.values]
        if having:
            _stack(batch, name, tiles, having)
    if not batch.values:
        raise ValueError(
            f"collate: nothing was observed in {len(tiles)} tiles ({', '.join(t.name for t in tiles[:4])}): every date "
            "is nodata or too cloudy. `fusion data check` lists such tiles; leave them out"
        )
    labels = [tile.label for tile in tiles if tile.label is not None]
    if labels and len(labels) < len(tiles):
        missing = [tile.name for tile in tiles if tile.label is None]
        raise ValueError(f"collate: {len(missing)} of {len(tiles)} tiles have no label, e.g. {missing[0]}")
    batch.labels = torch.stack([torch.as_tensor(label) for label in labels]) if labels else None
    return batch


def _stack(batch: TileBatch, name: str, tiles: Sequence[Tile], having: Sequence[Tile]) -> None:
    """Puts one modality into the batch; ``having`` are the tiles with it."""
    shapes = {tuple(tile.values[name].shape[-3:]) for tile in having}
    if len(shapes) > 1:
        listed = ", ".join(f"{tile.name} {tuple(tile.values[name].shape)}" for tile in having[:4])
        raise ValueError(f"collate: tiles differ in the shape of {name!r}: {listed}")
    first, told = having[0].values[name], any(name in tile.observed for tile in having)
    if first.ndim == 3:
        batch.values[name] = torch.stack([t.values.get(name, torch.zeros_like(first)) for t in tiles])
        batch.valid[name] = torch.tensor([name in t.values for t in tiles])
        if told:
            there = [torch.full(first.shape, name in t.values) for t in tiles]
            batch.observed[name] = torch.stack([t.observed.get(name, o) for t, o in zip(tiles, there, strict=True)])
        return
    length = max(tile.values[name].shape[0] for tile in having)
    values = first.new_zeros(len(tiles), length, *first.shape[1:])  # (B, L, C, H, W)
    days = torch.zeros(len(tiles), length, dtype=torch.int64)
    valid = torch.zeros(len(tiles), length, dtype=torch.bool)
    observed = torch.zeros_like(values, dtype=torch.bool) if told else None
    for b, tile in enumerate(tiles):
        if name in tile.values:
            l = tile.values[name].shape[0]
            values[b, :l] = tile.values[name]
            days[b, :l] = tile.days[name]
            valid[b, :l] = tile.valid.get(name, torch.ones(l, dtype=torch.bool))
            if observed is not None:
                observed[b, :l] = tile.observed.get(name, valid[b, :l, None, None, None])
    batch.values[name], batch.days[name], batch.valid[name] = values, days, valid
    if observed is not None:
        batch.observed[name] = observed


def values_by_band(tile: Tile | TileBatch, name: str) -> np.ndarray | None:
    """(C, n) float32 of a modality, over tiles, valid dates and pixels, or None where there is nothing valid.

    What a tile marks as not observed by pixel counts too: readers fill it with a mean of the band.
    """
    if name not in tile.values:
        return None
    values, valid = tile.values[name].cpu().numpy(), tile.valid.get(name)
    if valid is not None:
        values = values[valid.cpu().numpy()]
    return np.moveaxis(values, -3, 0).reshape(values.shape[-3], -1) if values.size else None
