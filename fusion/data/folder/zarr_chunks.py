"""Which chunks of an array of Zarr have no file: a store is a folder, of which a copy may lack a part."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["AbsentChunks", "absent_chunks"]

_MOST = 1 << 24  # chunks of an array that are looked for
_KEY = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")
_NOWHERE = np.iinfo(np.uint64).max  # offset and length of a chunk that a shard lacks


@dataclass(frozen=True)
class AbsentChunks:
    """Sliced like the array, it says where the array has no chunk.

    Attributes:
        shape: of the array; ``chunks``: of a chunk.
        absent: by chunk, bool.
        fill: what Zarr reads instead; None where the store does not say.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    absent: np.ndarray
    fill: float | None

    @property
    def count(self) -> int:
        return int(self.absent.sum())

    @property
    def total(self) -> int:
        return self.absent.size

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        """bool of the shape of ``array[index]``, for slices and whole numbers of all axes."""
        places = [
            np.arange(*part.indices(length)) // chunk if isinstance(part, slice) else np.array([part // chunk])
            for part, length, chunk in zip(index, self.shape, self.chunks, strict=True)
        ]
        found = self.absent[np.ix_(*places)]
        return np.asarray(found.squeeze(tuple(k for k, part in enumerate(index) if not isinstance(part, slice))))


def absent_chunks(array: Any, root: Path) -> AbsentChunks | None:
    """Those of a zarr.Array in the store ``root``; None if all are there, or if what is read instead is NaN, which is
    not observed anyway."""
    fill = array.fill_value
    if not array.ndim or array.dtype.kind not in "iufb" or (fill is not None and fill != fill):
        return None
    grid = tuple(-(-length // chunk) for length, chunk in zip(array.shape, array.chunks, strict=True))
    if not 0 < math.prod(grid) <= _MOST:
        return None
    absent = np.ones(grid, dtype=bool)
    shards = array.shards
    per_file = (1,) * array.ndim
    if shards is not None:
        per_file = tuple(shard // chunk for shard, chunk in zip(shards, array.chunks, strict=True))
    for place, path in _files(root / array.path, array.ndim):
        within = tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, per_file, strict=True))
        inside = absent[within]
        inside &= False if shards is None else _of_shard(array, path, per_file)[tuple(map(slice, inside.shape))]
    return (
        AbsentChunks(array.shape, array.chunks, absent, None if fill is None else float(fill)) if absent.any() else None
    )


def _files(folder: Path, axes: int) -> Iterator[tuple[tuple[int, ...], Path]]:
    """The files of chunks below the folder of an array, with the place of each."""
    for inner, _, names in os.walk(folder):
        for name in names:
            path = Path(inner, name)
            found = _KEY.fullmatch(path.relative_to(folder).as_posix())
            place = () if found is None else tuple(map(int, re.split(r"[./]", found[1])))
            if len(place) == axes:
                yield place, path


def _of_shard(array: Any, path: Path, per_file: tuple[int, ...]) -> np.ndarray:
    """bool by chunk of a shard: that its index has none. All are taken to be there if the index is no plain one."""
    present = np.zeros(per_file, dtype=bool)
    codec = array.metadata.codecs[0]
    plain = [type(one).__name__ for one in codec.index_codecs] == ["BytesCodec", "Crc32cCodec"]
    size = 16 * present.size
    if not plain or str(codec.index_location.value) != "end" or path.stat().st_size < size + 4:
        return present
    with path.open("rb") as file:
        file.seek(-size - 4, os.SEEK_END)
        index = np.frombuffer(file.read(size), dtype="<u8").reshape(*per_file, 2)
    return np.asarray((index == _NOWHERE).all(axis=-1))
