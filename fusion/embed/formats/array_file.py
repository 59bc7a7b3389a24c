"""Arrays larger than memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...training.files import readable_size

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

    def __setitem__(self, window: slice | tuple[slice, ...], values: Any) -> None:
        """Of slices of rows, and of columns.

        Raises:
            RuntimeError: it cannot be written. Through a mapping the system would end the process where a disk is full.
        """
        rows, columns, *_ = (*window, slice(None)) if isinstance(window, tuple) else (window, slice(None))
        (top, bottom, _), (left, right, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        pixel, shape = self.dtype.itemsize * int(np.prod(self.shape[2:])), (bottom - top, right - left, *self.shape[2:])
        block = np.ascontiguousarray(np.broadcast_to(values, shape), self.dtype)
        whole = right - left == self.shape[1]
        try:
            with open(self.path, "r+b") as file:
                for number, part in enumerate([block] if whole else block):
                    file.seek(((top + number) * self.shape[1] + left) * pixel)
                    file.write(part.data)
        except OSError as error:
            raise RuntimeError(
                f"cannot write {self.path}: {error.strerror or error} ({readable_size(block.nbytes)} needed); what was "
                "finished before is kept: mend that, then run the same command again"
            ) from error

    def sync(self) -> None:
        """What was written is on the disk once this returns."""
        sync(self.path)


def sync(path: Path) -> None:
    """What was written of a file is on the disk once this returns."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
