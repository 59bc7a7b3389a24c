"""Variables in files by name, read by slice as they are stored, and kept in memory where they fit."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import DamagedFile, decoding, need_keys
from ..handles import Handles
from .formats import CONTAINERS, NPY, Container, open_container, text

if TYPE_CHECKING:
    from .zarr_chunks import AbsentChunks

__all__ = ["CONTAINERS", "NPY", "Arrays", "Variable", "text"]


@dataclass(frozen=True, eq=False)
class Variable:
    """An array in a file, as it is stored. Holds no handle, so it can be sent to another process.

    Attributes:
        dimensions: names of its axes; empty where the file names none.
        kept: the whole of it, where it fits into memory.
        absent: where the file lacks a part of it.
    """

    arrays: Arrays = field(repr=False)
    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    dimensions: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    kept: np.ndarray | None = field(default=None, repr=False)
    absent: AbsentChunks | None = field(default=None, repr=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        if self.kept is not None:
            return np.asarray(self.kept[index])
        with self.arrays.reading(self.path):
            return _plain(self.arrays.container(self.path).variable(self.name)[index])


class Arrays:
    """Variables of many files, that of a .npy by the name "". Those that fit the budget are kept in memory, the others
    are sliced from disk.

    A tile of a compressed file needs whole chunks, often whole images, so that memory is worth a great deal.

    Args:
        memory: bytes that may be kept.
    """

    def __init__(self, memory: int) -> None:
        self._left, self._largest = memory, memory // 16
        self._kept: dict[tuple[Path, str], Variable] = {}
        self.handles = Handles()

    def has(self, path: Path, name: str) -> bool:
        with self.reading(path):
            return name in self.container(path)

    def get(self, path: Path, name: str) -> Variable:
        """
        Raises:
            ValueError: no such file or variable, or a damaged file; the message begins with the path.
        """
        key = (path, name)
        if key in self._kept:
            return self._kept[key]
        if path.suffix.lower() == NPY and name:
            raise ValueError(f"{path}: holds one array without a name, so no variable {name!r}; leave it out")
        with self.reading(path):
            file = self.container(path)
            if name not in file:
                need_keys(path, file.names(), [name])
            array = file.variable(name)
            shape, dtype = tuple(int(n) for n in array.shape), np.dtype(array.dtype)
            known = shape, dtype, file.dimensions(name), file.attributes(name)
            absent = file.absent(name)
            size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            # A .npy is mapped into memory: nothing is unpacked, so keeping a copy would gain nothing.
            if size > self._left or path.suffix.lower() == NPY:
                return Variable(self, path, name, *known, absent=absent)
            self._kept[key] = Variable(self, path, name, *known, absent=absent)
            with contextlib.suppress(DamagedFile), self.reading(path):  # what can be read of it is then read in windows
                self._kept[key] = Variable(self, path, name, *known, kept=_plain(array[...]), absent=absent)
                self._left -= size
        return self._kept[key]

    def keep(self, size: int) -> bool:
        """Whether a file of ``size`` bytes may be kept, which is then counted: if there is room, and the file is no
        more than a sixteenth of all memory, as of a larger one only windows may be wanted."""
        if size > min(self._left, self._largest):
            return False
        self._left -= size
        return True

    def reading(self, path: Path) -> AbstractContextManager[None]:
        """What names the file in errors within."""
        return decoding(path)

    def container(self, path: Path) -> Container:
        """The open file."""
        return self.handles.get(path, lambda: open_container(path))


def _plain(values: Any) -> np.ndarray:
    """An array; what a masked one masks is NaN, or where the type has none an error."""
    if np.ma.is_masked(values):
        values = np.ma.filled(values.astype(np.promote_types(values.dtype, np.float32)), np.nan)
    return np.asarray(values)
