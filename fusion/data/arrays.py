"""Tiles from arrays in memory: the shortest way from a user's own numbers to every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dataset import Task, TileDataset
from .given import numbers, words
from .modality import Modality
from .series import fill_gaps
from .tiles import Geo, Tile

__all__ = ["ArrayTiles"]


class ArrayTiles(TileDataset):
    """N tiles whose values lie in arrays, NaN or masked (:mod:`numpy.ma`) where nothing was observed.

    Single pixels (grid and patches of one) may leave the two axes of space out::

        s2 = Modality("s2", "series", ("B04", "B08"), resolution=10.0, patch_size=1)
        relief = Modality("relief", "image", ("elevation", "slope"), resolution=10.0, patch_size=1)
        tiles = ArrayTiles(
            [s2, relief],
            {"s2": reflectance, "relief": terrain},  # (N, L, 2) and (N, 2)
            days={"s2": np.arange(0, 365, 30)},  # the same for all tiles, or (N, L)
            task="regression", classes=["yield"], labels=tonnes,  # (N, 1)
            splits={"train": range(800), "test": range(800, 1000)},
        )

    What a tile does not have is missing for the models too. Pixels that are missing within a tile take its mean of the
    same date and band; a date with more than half of a band missing is not valid, and an image with a band that was not
    observed at all (a series without a valid date) is absent. A band with gaps of its own, such as a weather variable
    that is sometimes not recorded, is therefore best made a modality of its own. A random view is the tile itself.

    Args:
        modalities: names, bands and units, in the order in which batches hold them.
        values: by modality, image (N,C,H,W) or series (N,L,C,H,W), where (H, W) is ``grid`` times the modality's
            patch size; without (H, W) where both are 1. Kept as float32, copied only where necessary.
        days: of every series, (L,) or (N,L) whole days since ``origin``; a masked one is a date that is not there.
        grid: patches per tile (rows, columns).
        names: of the tiles; ``"0"``, ``"1"``, ... by default.
        task, classes, labels, ignore_index, splits: see :class:`~fusion.data.TileDataset`. What is masked or NaN in a
            map of labels is no label.
        places: where each tile lies.
        blocks: name or number of the block of ground of each tile, (N,): tiles of a block are alike, and intervals of
            scores are drawn by blocks.
        origin: 1 January of the year of the series, as ``"2021-01-01"`` or datetime64, one for all tiles or N. Without
            it the year is unknown: what goes by the season still works, calendar dates do not.

    Raises:
        ValueError: arrays, days, names or places whose shapes do not fit; an infinite value; the modality is named. An
            origin that is no 1 January. A class that does not exist, or a tile without one.
    """

    def __init__(
        self,
        modalities: Sequence[Modality],
        values: Mapping[str, np.ndarray],
        days: Mapping[str, np.ndarray] | None = None,
        *,
        grid: tuple[int, int] = (1, 1),
        names: Sequence[str] | None = None,
        task: Task | None = None,
        classes: Sequence[str] = (),
        labels: Tensor | np.ndarray | None = None,
        ignore_index: int = -1,
        splits: Mapping[str, Sequence[int]] | None = None,
        places: Sequence[Geo | None] | None = None,
        blocks: Sequence[str | int] | np.ndarray | None = None,
        origin: str | np.datetime64 | Sequence[str | np.datetime64] | np.ndarray | None = None,
    ) -> None:
        if not modalities:
            raise ValueError("ArrayTiles: no modality given")
        classes = words(classes, "ArrayTiles: classes")
        known, days = [m.name for m in modalities], dict(days or {})
        for what, given in (("values", values), ("days", days)):
            strange = [name for name in given if name not in known]
            if strange:
                raise ValueError(f"ArrayTiles: {what} of {', '.join(strange)}; the modalities are {', '.join(known)}")
        self._values = {m.name: _fitting(m, values.get(m.name), grid) for m in modalities}
        count = len(self._values[known[0]])
        for name, array in self._values.items():
            if len(array) != count:
                raise ValueError(f"ArrayTiles: {name!r} has {len(array)} tiles, {known[0]!r} has {count}")
        self._days = {}
        for series in (m for m in modalities if m.kind == "series"):
            values_of = self._values[series.name]
            self._days[series.name], there = _calendar(series, days.get(series.name), values_of.shape[:2])
            if not there.all():
                self._values[series.name] = np.where(there[..., None, None, None], values_of, np.float32(np.nan))
        for what, told in (("names", names), ("places", places), ("blocks", blocks)):
            if told is not None and len(told) != count:
                raise ValueError(f"ArrayTiles: {len(told)} {what} for {count} tiles")
        self._origin = _first_days(origin, count)
        self._places = list(places) if places is not None else None
        self._blocks = [str(block) for block in blocks] if blocks is not None else None
        super().__init__(
            [str(i) for i in range(count)] if names is None else [str(name) for name in names],
            modalities,
            grid,
            task=task,
            classes=classes,
            labels=None if labels is None else _labels(labels, task, len(classes), ignore_index),
            ignore_index=ignore_index,
            splits=splits,
        )

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        tile = Tile(self._names[row], {}, origin=None if self._origin is None else self._origin[row])
        for modality in self.modalities:
            name, values = modality.name, self._values[modality.name][row]
            if modality.kind == "image":
                filled, valid = fill_gaps(values[None], max_missing=0.5, name=name)
                if valid[0]:
                    tile.values[name] = torch.from_numpy(filled[0])
                continue
            filled, valid = fill_gaps(values, max_missing=0.5, name=name)
            tile.values[name] = torch.from_numpy(filled)
            tile.days[name] = torch.from_numpy(self._days[name][row])
            tile.valid[name] = torch.from_numpy(valid)
        return tile

    def _place(self, row: int) -> Geo | None:
        return None if self._places is None else self._places[row]

    def _block(self, row: int) -> str | None:
        return None if self._blocks is None else self._blocks[row]


def _fitting(modality: Modality, values: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray:
    """The array as (N,C,H,W) or (N,L,C,H,W) float32."""
    name, axes = modality.name, "(N, C, H, W)" if modality.kind == "image" else "(N, L, C, H, W)"
    if values is None:
        raise ValueError(f"ArrayTiles: no values of {name!r} given, an array {axes} is wanted")
    values = numbers(values, f"ArrayTiles: {name!r}")
    size = (grid[0] * modality.patch_size, grid[1] * modality.patch_size)
    dims, given = axes.count(",") + 1, values.shape
    if size == (1, 1) and values.ndim == dims - 2:
        values = values[..., None, None]
    if values.ndim != dims or values.shape[-3:] != (modality.channels, *size):
        raise ValueError(
            f"ArrayTiles: {name!r} has shape {given}; a {modality.kind} of {modality.channels} bands "
            f"({', '.join(modality.bands)}) and {grid[0]} x {grid[1]} patches of {modality.patch_size} pixels is "
            f"{axes} with (C, H, W) = {(modality.channels, *size)}"
        )
    with np.errstate(over="ignore"):  # 1e300 becomes infinite and is refused
        values = np.require(values, np.float32, "W")  # torch warns of arrays that cannot be written
    if np.isinf(values).any():
        raise ValueError(f"ArrayTiles: {name!r} has {int(np.isinf(values).sum())} infinite values; NaN means missing")
    return values


def _calendar(modality: Modality, days: np.ndarray | None, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(N, L) int64, and (N, L) bool, False for a day that is masked."""
    name = modality.name
    if days is None:
        raise ValueError(f"ArrayTiles: {name!r} is a series; give its days as days={{{name!r}: (L,) or (N, L)}}")
    given = np.ma.asarray(days)
    there, days = ~np.ma.getmaskarray(given), given.filled(0)
    if days.shape not in (shape, shape[1:]) or not np.issubdtype(days.dtype, np.integer):
        raise ValueError(
            f"ArrayTiles: the days of {name!r} have shape {days.shape} and type {days.dtype}; its values have "
            f"{shape[0]} tiles of {shape[1]} dates, so whole numbers {shape[1:]} or {shape} are wanted"
        )
    return np.broadcast_to(days.astype(np.int64), shape).copy(), np.broadcast_to(there, shape)


def _labels(labels: Any, task: Task | None, classes: int, ignore_index: int) -> Tensor:
    """As :class:`~fusion.data.TileDataset` wants them: int64 classes, float32 or float64 of everything else."""
    labels = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    if np.ma.asarray(labels).dtype == bool:
        labels = np.ma.asarray(labels).astype(np.uint8)
    values = numbers(labels, "ArrayTiles: labels")
    missing = np.isnan(values)
    if task != "multiclass":
        if np.isinf(values).any() or (task == "multilabel" and missing.any()):
            raise ValueError(
                f"ArrayTiles: {int((~np.isfinite(values)).sum())} of {values.size} labels are masked, NaN or infinite; "
                "leave these tiles out"
            )
        return torch.from_numpy(np.require(values, np.float64 if values.dtype == np.float64 else np.float32, "W"))
    if values.ndim == 1 and missing.any():
        raise ValueError(f"ArrayTiles: tile {int(missing.argmax())} has no label (masked or NaN); leave such tiles out")
    codes = np.where(missing, ignore_index, values)
    whole = codes.astype(np.int64)
    strange = (whole != codes) | (((whole < 0) | (whole >= classes)) & (whole != ignore_index))
    if classes and strange.any():
        raise ValueError(
            f"ArrayTiles: label {codes[strange][0]:g} is none of {classes} classes, which are 0 to {classes - 1}"
            + (f"; {ignore_index} is no label" if values.ndim > 1 else "")
        )
    return torch.from_numpy(whole)


def _first_days(origin: object, count: int) -> np.ndarray | None:
    """(N,) datetime64[D] of the tiles, or None where the year is unknown."""
    if origin is None:
        return None
    days = np.asarray(origin, dtype="datetime64[D]")
    if days.shape not in ((), (count,)):
        raise ValueError(f"ArrayTiles: origin has shape {days.shape}; one date, or one for each of {count} tiles")
    wrong = np.atleast_1d(days)[np.atleast_1d(days != days.astype("datetime64[Y]"))]
    if len(wrong):
        raise ValueError(f"ArrayTiles: origin {wrong[0]} is not 1 January; days count from 1 January of a year")
    return np.broadcast_to(days, (count,))
