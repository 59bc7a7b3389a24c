"""Bands that lie in files or variables of their own, as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .conventions import Conventions
from .pixels import Override, Pixels, Window

__all__ = ["BandStack"]


class BandStack(Pixels):
    """Pixels of one band each, one beside another.

    Args:
        parts: of the same size; None for a band that is not there, which was observed nowhere.

    Raises:
        ValueError: parts that differ in their sizes.
    """

    def __init__(self, parts: Sequence[Pixels | None]) -> None:
        self.parts = list(parts)
        there = [part for part in parts if part is not None]
        first = there[0]
        self.path, self.grid, self.conventions = first.path, first.grid, first.conventions
        self.files = len({part.path for part in there})
        self.dtype = np.result_type(*(part.dtype for part in there))
        self.in_memory = all(part.in_memory for part in there)
        sizes = [{axis: n for axis, n in part.sizes.items() if axis != "band"} for part in there]
        for part, own in zip(there, sizes, strict=True):
            if own != sizes[0]:
                raise ValueError(f"{part.path}: its size {part.shape} differs from {first.shape} of {first.path}")
        self.sizes = {**sizes[0], "band": len(self.parts)}

    @property
    def of_files(self) -> Sequence[Pixels]:
        return [file for part in self.parts if part is not None for file in part.of_files]

    def conventions_of(self, date: int | None, band: int) -> Conventions:
        part = self.parts[band]
        return Conventions() if part is None else part.conventions_of(date, 0)

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        read: list[tuple[np.ndarray, np.ndarray | None]] = []
        for part in (self.parts[band] for band in bands):
            if part is None:
                shape = self._shape(dates, window)
                read.append((np.zeros(shape, self.dtype), np.ones(shape, dtype=bool)))
            else:
                read.append(part.codes(dates, window, [0]))
        codes = np.concatenate([codes for codes, _ in read], axis=1)
        if all(masked is None for _, masked in read):
            return codes, None
        masks = [np.zeros(own.shape, bool) if masked is None else masked for own, masked in read]
        return codes, np.concatenate(masks, axis=1)

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        read = []
        for part in (self.parts[band] for band in bands):
            if part is None:
                read.append(np.full(self._shape(dates, window), np.nan, np.float32))
            else:
                read.append(part.values(dates, window, [0], override))
        return np.concatenate(read, axis=1)

    def _shape(self, dates: np.ndarray | None, window: Window) -> tuple[int, ...]:
        return (1 if dates is None or "time" not in self.sizes else len(dates), 1, *window[2:])
