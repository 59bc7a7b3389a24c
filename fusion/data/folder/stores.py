"""Arrays in files: HDF5, NetCDF, NPZ and Zarr by name, .npy and GeoTIFF one array a file; all are read by slice."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..files import need_keys, reading
from ..npy import open_array

__all__ = ["NPY", "Arrays", "NpyStack", "OnDisk", "TiffStack", "find_files", "text"]

NPY = ".npy"


def find_files(folder: Path, pattern: str) -> dict[str, list[tuple[Path, str | None]]]:
    """Files by scene, each with the date in its name, ordered by it.

    ``{scene}`` and ``*`` stand for any part of a name, ``{date}`` for 20200817, 2020-08-17 or 2020-08. Without
    ``{scene}`` everything is one scene, called like the folder.
    """
    expression = re.escape(pattern).replace(r"\*", "[^/]*")
    expression = expression.replace(r"\{scene\}", "(?P<scene>[^/]+?)", 1).replace(r"\{scene\}", "(?P=scene)")
    expression = expression.replace(r"\{date\}", r"(?P<date>\d{4}-?\d{2}(?:-?\d{2})?)")
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for path in sorted(folder.glob(pattern.replace("{scene}", "*").replace("{date}", "*"))):
        match = re.fullmatch(expression, path.relative_to(folder).as_posix())
        if match:
            parts = match.groupdict()
            found.setdefault(parts.get("scene") or folder.resolve().name, []).append((path, parts.get("date")))
    return {scene: sorted(files, key=lambda f: f[1] or "") for scene, files in found.items()}


class TiffStack:
    """GeoTIFFs of one grid as one array (time, band, y, x), or (band, y, x) of a single one; reads windows."""

    dtype = np.dtype(np.float32)

    def __init__(self, paths: Sequence[Path], dated: bool) -> None:
        import rasterio

        self.paths = list(paths)
        shapes = {}
        for path in self.paths:
            with reading(path), rasterio.open(path) as image:
                shapes[path] = (image.count, image.height, image.width)
                if path == self.paths[0]:
                    self.crs = None if image.crs is None else image.crs.to_string()
                    self.transform = tuple(image.transform)[:6]
        first = shapes[self.paths[0]]
        other = [path for path, shape in shapes.items() if shape != first]
        if other:
            raise ValueError(f"{other[0]}: bands and size {shapes[other[0]]} differ from {first} of {self.paths[0]}")
        self.shape = (len(self.paths), *first) if dated else first

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        """``index`` names every axis: a date (if dated), all bands, and slices of rows and columns."""
        import rasterio
        from rasterio.windows import Window

        path: Path = self.paths[index[0] if len(self.shape) == 4 else 0]
        rows, columns = (range(*part.indices(n)) for part, n in zip(index[-2:], self.shape[-2:], strict=True))
        with reading(path), rasterio.open(path) as image:
            window = Window(columns.start, rows.start, len(columns), len(rows))
            pixels: np.ndarray = image.read(window=window).astype(np.float32)
            if image.nodata is not None:
                pixels[pixels == image.nodata] = np.nan
        return pixels


class NpyStack:
    """.npy files of one shape, one a date, as one array whose first axis is time; reads slices of a file."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        shapes = {path: open_array(path).shape for path in self.paths}
        first = shapes[self.paths[0]]
        other = [path for path, shape in shapes.items() if shape != first]
        if other:
            raise ValueError(f"{other[0]}: shape {shapes[other[0]]} differs from {first} of {self.paths[0]}")
        self.shape, self.dtype = (len(self.paths), *first), open_array(self.paths[0]).dtype

    def __getitem__(self, index: tuple[Any, ...]) -> np.ndarray:
        """``index`` names every axis: a date, then slices."""
        return np.array(open_array(self.paths[index[0]])[index[1:]])


class OnDisk:
    """An array in a file, read slice by slice. Holds no handle, so it can be sent to another process."""

    def __init__(self, arrays: Arrays, path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.arrays, self.path, self.name, self.shape, self.dtype = arrays, path, name, shape, dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        with reading(self.path):
            return np.asarray(self.arrays.store(self.path)[self.name][index])


class Arrays:
    """Arrays of many files, that of a .npy by the name "". Those that fit the budget are kept in memory, the others are
    sliced from disk.

    A tile of a compressed file needs whole chunks, often whole images, so that memory is worth a great deal.

    Args:
        memory: bytes that may be kept.
    """

    def __init__(self, memory: int) -> None:
        self._left = memory
        self._kept: dict[tuple[Path, str], np.ndarray] = {}
        self._open: dict[tuple[int, Path], Any] = {}  # a handle must not be shared with a forked process

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}

    def has(self, path: Path, name: str) -> bool:
        return name in self.store(path)

    def attributes(self, path: Path, name: str) -> Mapping[str, Any]:
        with reading(path):
            return dict(getattr(self.store(path)[name], "attrs", {}))

    def get(self, path: Path, name: str) -> np.ndarray | OnDisk:
        """Something with shape, dtype and ``[slices]``.

        Raises:
            ValueError: no such file or variable, or a damaged file; the message begins with the path.
        """
        key = (path, name)
        if key in self._kept:
            return self._kept[key]
        store = self.store(path)
        if path.suffix.lower() == NPY:
            if name:
                raise ValueError(f"{path}: holds one array without a name, so no variable {name!r}; leave it out")
            # Mapped into memory: nothing is unpacked, so keeping a copy would gain nothing.
            return OnDisk(self, path, name, store[name].shape, store[name].dtype)
        if name not in store:
            need_keys(path, list(store.keys()), [name])
        with reading(path):
            array = store[name]
            size = int(np.prod(array.shape)) * array.dtype.itemsize
            if size > self._left:
                return OnDisk(self, path, name, tuple(array.shape), array.dtype)
            self._kept[key] = np.asarray(array[...])
            self._left -= size
        return self._kept[key]

    def store(self, path: Path) -> Any:
        """The open file, of this process."""
        key = (os.getpid(), path)
        if key not in self._open:
            opener = _OPEN.get(path.suffix.lower())
            if opener is None:
                raise ValueError(f"{path}: variables are read from {', '.join(_OPEN)} files, not {path.suffix!r}")
            if not path.exists():
                raise ValueError(f"{path}: no such file. Check the folder (--data) and the file pattern")
            with reading(path):
                self._open[key] = opener(path)
        return self._open[key]


def _hdf5(path: Path) -> Any:
    import h5py

    return h5py.File(path)


def _netcdf(path: Path) -> Any:
    import xarray

    try:
        return xarray.open_dataset(path)  # applies scale and fill values, decodes times
    except ValueError as error:  # xarray found no engine that reads it
        raise OSError(str(error)) from error


def _npy(path: Path) -> Any:
    return {"": open_array(path)}


def _npz(path: Path) -> Any:
    return np.load(path, allow_pickle=False)


def _zarr(path: Path) -> Any:
    import zarr

    try:
        return zarr.open_group(path, mode="r")
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(str(error)) from error


_OPEN = {
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".he5": _hdf5,
    ".nc": _netcdf,
    ".nc4": _netcdf,
    ".npz": _npz,
    NPY: _npy,
    ".zarr": _zarr,
}


def text(value: Any) -> str:
    """Names and attributes are bytes in some files."""
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()
