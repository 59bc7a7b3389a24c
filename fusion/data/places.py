"""Names and places of very many tiles, without an object for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np

from .tiles import Geo

__all__ = ["ComputedNames", "Places"]


class ComputedNames(Sequence[str]):
    """Names that are made when they are asked for.

    Args:
        count: how many there are.
        name: of a number below; a function that can be pickled, for loaders in processes of their own.
    """

    def __init__(self, count: int, name: Callable[[int], str]) -> None:
        self._count, self._name = count, name

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(self._count)[index]
        return self._name(numbers) if isinstance(numbers, int) else [self._name(number) for number in numbers]


@dataclass(frozen=True)
class Places:
    """Where N tiles lie, in columns.

    Attributes:
        corners: (N, 2) float64, x and y of the upper left corner of each tile's first pixel; NaN where unknown.
        frame: (N,) int32 position among ``frames`` of each; -1 where unknown.
        frames: what tiles share, their CRS and the size of their pixels: the place of one with its corner at (0, 0).
    """

    corners: np.ndarray
    frame: np.ndarray
    frames: tuple[Geo, ...]

    @property
    def known(self) -> np.ndarray:
        """(N,) bool."""
        return self.frame >= 0

    @classmethod
    def of(cls, places: Sequence[Geo | None]) -> Places:
        """The same, from an object for each."""
        frames: dict[Geo, int] = {}
        corners, frame = np.full((len(places), 2), np.nan), np.full(len(places), -1, dtype=np.int32)
        for i, place in enumerate(places):
            if place is not None:
                a, b, corners[i, 0], d, e, corners[i, 1] = place.transform
                own = replace(place, transform=(a, b, 0.0, d, e, 0.0))
                frame[i] = frames.setdefault(own, len(frames))
        return cls(corners, frame, tuple(frames))
