"""Arrays of xarray that are read, and decoded, when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

__all__ = ["Read", "lazy"]

Read = Callable[[tuple[slice, ...]], np.ndarray]  # of a window, as slices with a step of 1


class _Deferred(BackendArray):
    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Read) -> None:
        self.shape, self.dtype, self.read = shape, np.dtype(dtype), read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._window)

    def _window(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """The part that ``key`` asks for, by the smallest window around it."""
        window, inside = zip(*(_around(part, n) for part, n in zip(key, self.shape, strict=True)), strict=True)
        if any(part.start >= part.stop for part in window):
            return np.empty([part.stop - part.start for part in window], dtype=self.dtype)[inside]
        return self.read(window)[inside]


def lazy(shape: tuple[int, ...], dtype: Any, read: Read) -> indexing.LazilyIndexedArray:
    """What a variable of xarray can be made of: ``read`` is called for a window of ``shape`` when values are wanted.

    Args:
        read: from slices, one an axis, to the numbers; picklable, if parts are to be read by other processes.
    """
    return indexing.LazilyIndexedArray(_Deferred(shape, dtype, read))


def _around(part: int | slice, length: int) -> tuple[slice, int | slice]:
    """The window around what is asked for of one axis, and where it lies in the window."""
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        places = range(start, stop, step)
        if not places:
            return slice(0, 0), slice(None)
        first, last = min(places[0], places[-1]), max(places[0], places[-1])
        return slice(first, last + 1), slice(None, None, step)
    at = int(part) % length
    return slice(at, at + 1), 0
