"""One tile, and a batch of them: the shape in which every reader hands data to every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Geo", "Tile", "TileBatch", "collate", "observed"]


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
        days: series only, (L,) int64, days since 1 January of the year of the series (0-based or not: the
            reader's documentation says).
        valid: series only, (L,) bool; False for a date that must not be used.
        label: class index, multi-hot vector or regression target, or None.
        geo: where the tile lies, or None where unknown.
    """

    name: str
    values: dict[str, Tensor]
    days: dict[str, Tensor] = field(default_factory=dict)
    valid: dict[str, Tensor] = field(default_factory=dict)
    label: Tensor | None = None
    geo: Geo | None = None


@dataclass
class TileBatch:
    """B tiles, padded to common lengths.

    Attributes:
        values: ``values[name]`` is (B,C,H,W) for an image and (B,L,C,H,W) for a series; 0 where not observed.
        days: ``days[name]`` (B,L) int64; 0 where padded.
        valid: ``valid[name]`` bool, (B,) for an image and (B,L) for a series; a missing modality or date is
            False, never a magic number.
        labels: (B,) int64, (B,K) float multi-hot or (B,T) float targets, or None.
        names: B tile names.
        geo: B places, or None where unknown.
    """

    values: dict[str, Tensor]
    days: dict[str, Tensor]
    valid: dict[str, Tensor]
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    geo: tuple[Geo | None, ...] = ()

    def __len__(self) -> int:
        return next(iter(self.valid.values())).shape[0]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.values)

    def present(self, name: str) -> Tensor:
        """(B,) bool: which tiles have modality ``name`` at all."""
        valid = self.valid[name]
        return valid if valid.ndim == 1 else valid.any(dim=1)

    def select(self, names: Sequence[str]) -> TileBatch:
        """The same tiles with only the modalities ``names``, in that order."""
        unknown = [n for n in names if n not in self.values]
        if unknown:
            raise KeyError(f"batch has no modality {', '.join(unknown)}; it has {', '.join(self.values)}")
        days = {n: self.days[n] for n in names if n in self.days}
        values, valid = {n: self.values[n] for n in names}, {n: self.valid[n] for n in names}
        return TileBatch(values, days, valid, self.labels, self.names, self.geo)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TileBatch:
        def move(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.to(device, non_blocking=non_blocking) for k, v in tensors.items()}

        labels = None if self.labels is None else self.labels.to(device, non_blocking=non_blocking)
        return TileBatch(move(self.values), move(self.days), move(self.valid), labels, self.names, self.geo)

    def pin_memory(self) -> TileBatch:
        def pin(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {k: v.pin_memory() for k, v in tensors.items()}

        labels = None if self.labels is None else self.labels.pin_memory()
        return TileBatch(pin(self.values), pin(self.days), pin(self.valid), labels, self.names, self.geo)


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
    names = list(modalities or dict.fromkeys(n for tile in tiles for n in tile.values))
    values: dict[str, Tensor] = {}
    days: dict[str, Tensor] = {}
    valid: dict[str, Tensor] = {}
    for name in names:
        having = [tile for tile in tiles if name in tile.values]
        if not having:
            continue
        shapes = {tuple(tile.values[name].shape[-3:]) for tile in having}
        if len(shapes) > 1:
            listed = ", ".join(f"{tile.name} {tuple(tile.values[name].shape)}" for tile in having[:4])
            raise ValueError(f"collate: tiles differ in the shape of {name!r}: {listed}")
        first = having[0].values[name]
        if first.ndim == 3:
            values[name] = torch.stack([t.values.get(name, torch.zeros_like(first)) for t in tiles])
            valid[name] = torch.tensor([name in t.values for t in tiles])
            continue
        length = max(tile.values[name].shape[0] for tile in having)
        values[name] = first.new_zeros(len(tiles), length, *first.shape[1:])
        days[name] = torch.zeros(len(tiles), length, dtype=torch.int64)
        valid[name] = torch.zeros(len(tiles), length, dtype=torch.bool)
        for b, tile in enumerate(tiles):
            if name in tile.values:
                l = tile.values[name].shape[0]
                values[name][b, :l] = tile.values[name]
                days[name][b, :l] = tile.days[name]
                valid[name][b, :l] = tile.valid.get(name, torch.ones(l, dtype=torch.bool))
    if not values:
        raise ValueError(
            f"collate: nothing was observed in {len(tiles)} tiles ({', '.join(t.name for t in tiles[:4])}): every date "
            "is nodata or too cloudy. `fusion data check` lists such tiles; leave them out"
        )
    labels: list[Any] = [tile.label for tile in tiles]
    if any(l is None for l in labels) and any(l is not None for l in labels):
        missing = [tile.name for tile in tiles if tile.label is None]
        raise ValueError(f"collate: {len(missing)} of {len(tiles)} tiles have no label, e.g. {missing[0]}")
    stacked = None if labels[0] is None else torch.stack([torch.as_tensor(l) for l in labels])
    return TileBatch(values, days, valid, stacked, tuple(t.name for t in tiles), tuple(t.geo for t in tiles))


def observed(tile: Tile | TileBatch, name: str) -> np.ndarray | None:
    """(C, n) float32 observed values of a modality, or None."""
    if name not in tile.values:
        return None
    values, valid = tile.values[name].cpu().numpy(), tile.valid.get(name)
    if valid is not None:
        values = values[valid.cpu().numpy()]
    return np.moveaxis(values, -3, 0).reshape(values.shape[-3], -1) if values.size else None
