"""Values of our Zarr stores, of version 2 and 3, read where they are used."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.files import DamagedFile, reading
from ..codec import decode
from .zarr_checksum import has_checksum, require_unchanged

if TYPE_CHECKING:
    import xarray

__all__ = ["open_zarr", "read_values"]


def open_zarr(path: Path, decoded: bool) -> xarray.Dataset:
    """A store as a data set whose variable ``embedding`` is read when it is used.

    Args:
        decoded: int8 codes become float32 vectors, NaN where there is no data.

    Raises:
        ValueError: its metadata or coordinates are not those that were written.
    """
    import xarray

    from .lazy import lazy

    require_unchanged(path)
    data = xarray.open_zarr(path, chunks=None, mask_and_scale=False, consolidated=None)
    if "embedding" in data:
        values = data["embedding"].variable
        dtype = "float32" if decoded and values.dtype == np.int8 else values.dtype
        read = lazy(values.shape, dtype, partial(read_values, path, decoded, whole=has_checksum(path)))
        data["embedding"] = xarray.Variable(values.dims, read, values.attrs, values.encoding)
    return data


def read_values(path: Path, decoded: bool, window: tuple[slice | int, ...], *, whole: bool = True) -> np.ndarray:
    """A window of ``embedding``.

    Args:
        whole: no file of it may be absent, as in a store that we have written; else that is no data.

    Raises:
        DamagedFile: bytes of it have changed on the disk, or a file of it is gone.
    """
    import zarr

    with reading(path, chunks=True):
        array = zarr.open_array(path, path="embedding", mode="r")
        if whole:
            _require_chunks(path / "embedding", array, window)
        stored = np.asarray(array[window])
    return decode(stored) if decoded and stored.dtype == np.int8 else stored


def _require_chunks(folder: Path, array: Any, window: tuple[slice | int, ...]) -> None:
    """Raises where a file of a window is absent, which would be read as if nothing had been observed."""
    sizes = array.shards or array.chunks
    spans = []
    for part, length, size in zip(window, array.shape, sizes, strict=True):
        start, stop, _ = part.indices(length) if isinstance(part, slice) else (part % length, part % length + 1, 1)
        spans.append(range(start // size, -(-stop // size)))
    for numbers in itertools.product(*spans):
        name = array.metadata.encode_chunk_key(numbers)
        if not (folder / name).exists():
            raise DamagedFile(f"{folder / name} is missing; take another copy of {folder.parent}")
