"""Arrays larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["ArrayFile", "Windows", "sync"]

_ROWS = 64  # that are in memory while rows are gone through


class Windows(Protocol):
    """(rows, columns, D) of which slices of rows and columns can be read: an array, or what lies in a file."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: tuple[slice, slice], /) -> np.ndarray: ...


class ArrayFile:
    """An array in a file, which other processes may write at the same time; made if it is not there.

    Of an array that is mapped as a whole every page that was touched counts as memory of the process; here those of one
    window do, while it is read or written.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        with open(path, "ab") as file:
            file.truncate(int(np.prod(shape)) * self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for top in range(0, len(self), _ROWS):
            yield from self[top : top + _ROWS]

    def __getitem__(self, window: Any) -> np.ndarray:
        return np.array(np.memmap(self.path, self.dtype, "r", shape=self.shape)[window])

    def __setitem__(self, window: Any, values: np.ndarray) -> None:
        np.memmap(self.path, self.dtype, "r+", shape=self.shape)[window] = values

    def sync(self) -> None:
        """What was written is on the disk once this returns."""
        sync(self.path)


def sync(path: Path) -> None:
    """What was written of a file is on the disk once this returns."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
