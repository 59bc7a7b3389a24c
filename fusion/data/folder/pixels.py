"""Pixels of a scene, whatever holds them: north up, by window, as codes or as physical values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conventions import Conventions
from .grid import Grid

if TYPE_CHECKING:
    from .zarr_chunks import AbsentChunks

__all__ = ["Override", "Pixels", "Stack", "StoredPixels"]

Window = tuple[int, int, int, int]  # row, column, height, width
Override = Callable[[Conventions], Conventions]
_ORDER = ("time", "band", "y", "x")


class Pixels(ABC):
    """An array with some of the axes time, band, y and x; rows run south whatever the file does.

    Attributes:
        path: of the first file, ``files`` how many there are.
        sizes: length by axis; an axis that is lacking is absent.
        grid: where it lies, None where the file does not say.
        conventions: what the file says of its numbers.
        in_memory: reading costs nothing.
        band_names: what the file calls its bands; empty where it does not say.
        absent: chunks that the file lacks.
    """

    path: Path
    files: int = 1
    sizes: Mapping[str, int]
    dtype: np.dtype
    grid: Grid | None = None
    conventions: Conventions = Conventions()
    in_memory = False
    band_names: tuple[str, ...] = ()
    absent: AbsentChunks | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """In the order time, band, y, x."""
        return tuple(self.sizes[axis] for axis in _ORDER if axis in self.sizes)

    @property
    def of_files(self) -> Sequence[Pixels]:
        """The pixels of each file."""
        return [self]

    def conventions_of(self, date: int | None, band: int) -> Conventions:
        """What the file of a date and band says of its numbers."""
        return self.conventions.of_bands([band])

    @abstractmethod
    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Stored numbers (L, bands, h, w) of some dates in a window, in their own type, and where a mask of the file
        says that they are none (None: nowhere).

        Args:
            dates: positions; None for what has no time, then L is 1.
            window: rows from the north; h and w are 1 for what has no pixels (weather).
        """

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        """Physical values (L, bands, h, w) float32, NaN where not observed.

        Args:
            override: puts what the description says in the place of what the file says.
        """
        codes, masked = self.codes(dates, window, bands)
        conventions = self.conventions if override is None else override(self.conventions)
        return conventions.of_bands(bands).values(codes, masked)


class StoredPixels(Pixels):
    """A variable of a file, with its axes in any order.

    Args:
        empty_chunks: chunks that the file lacks hold the fill value; else a mask of the file is where they would be.
    """

    def __init__(
        self,
        variable: Any,
        axes: Sequence[str],
        *,
        south_up: bool = False,
        grid: Grid | None = None,
        empty_chunks: bool = False,
    ) -> None:
        self.variable, self.axes, self.south_up, self.grid = variable, tuple(axes), south_up, grid
        self.path, self.dtype = variable.path, variable.dtype
        self.sizes = dict(zip(axes, variable.shape, strict=True))
        self.conventions = Conventions.of_attributes(variable.attributes, variable.dtype)
        self.in_memory = variable.kept is not None
        self.absent, self._empty_chunks = variable.absent, empty_chunks

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        values = self._window(self.variable, dates, window, bands)
        hidden = self.absent is not None and not self._empty_chunks
        return values, self._window(self.absent, dates, window, bands) if hidden else None

    def _window(self, stored: Any, dates: np.ndarray | None, window: Window, bands: Sequence[int]) -> np.ndarray:
        """(L, bands, h, w) of the variable, or of what is sliced like it."""
        row, column, height, width = window
        if self.south_up:
            row = self.sizes["y"] - row - height
        part: dict[str, Any] = {
            "time": slice(None), "band": slice(None), "y": slice(row, row + height), "x": slice(column, column + width)
        }  # fmt: skip
        left = list(self.axes)
        at_once = self.in_memory or self.path.suffix.lower() == ".npz"  # of which any part is unpacked whole
        if dates is not None and "time" in left:  # chunks hold several dates, and each is unpacked for each of them
            at_once |= 2 * len(dates) >= self.sizes["time"]
        if dates is None or "time" not in left or at_once:
            values = stored[tuple(part[axis] for axis in self.axes)]
            if dates is not None and "time" in left:
                values = values.take(dates, axis=left.index("time"))
        else:  # on disk: only these dates
            picked = [stored[tuple({**part, "time": int(date)}[axis] for axis in self.axes)] for date in dates]
            left = ["time", *(axis for axis in self.axes if axis != "time")]
            values = np.stack(picked) if picked else np.empty((0, *self._one_date(height, width)), dtype=self.dtype)
        lacking = [axis for axis in _ORDER if axis not in left]
        values = values.reshape(*values.shape, *[1] * len(lacking))
        values = values.transpose([(left + lacking).index(axis) for axis in _ORDER])[:, list(bands)]
        return np.asarray(values[:, :, ::-1] if self.south_up else values)

    def _one_date(self, height: int, width: int) -> list[int]:
        lengths = {"band": self.sizes.get("band", 1), "y": height, "x": width}
        return [lengths[axis] for axis in self.axes if axis != "time"]


class Stack(Pixels):
    """Pixels of one date each, one after another."""

    def __init__(self, parts: Sequence[Pixels]) -> None:
        first = parts[0]
        self.parts, self.path, self.grid, self.conventions = list(parts), first.path, first.grid, first.conventions
        self.files = sum(part.files for part in parts)
        self.dtype = np.result_type(*(part.dtype for part in parts))
        for part in parts:
            if part.sizes != first.sizes:
                raise ValueError(f"{part.path}: bands and size {part.shape} differ from {first.shape} of {first.path}")
        self.sizes = {"time": len(parts), **first.sizes}

    @property
    def of_files(self) -> Sequence[Pixels]:
        return [file for part in self.parts for file in part.of_files]

    def conventions_of(self, date: int | None, band: int) -> Conventions:
        return self.parts[date or 0].conventions_of(None, band)

    def codes(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        read = [self.parts[int(date)].codes(None, window, bands) for date in self._dates(dates)]
        if all(masked is None for _, masked in read):
            return np.concatenate([codes for codes, _ in read]), None
        masks = [np.zeros(codes.shape, bool) if masked is None else masked for codes, masked in read]
        return np.concatenate([codes for codes, _ in read]), np.concatenate(masks)

    def values(
        self, dates: np.ndarray | None, window: Window, bands: Sequence[int], override: Override | None = None
    ) -> np.ndarray:
        return np.concatenate(
            [self.parts[int(date)].values(None, window, bands, override) for date in self._dates(dates)]
        )

    def _dates(self, dates: np.ndarray | None) -> np.ndarray:
        return np.arange(len(self.parts)) if dates is None else dates
