"""Files of variables, opened: HDF5, NetCDF 3 and 4, Zarr, NPZ and .npy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..files import decoding
from ..npy import open_array
from ..opening import hdf5_dataset, hdf5_has, open_npz, refuse_links

if TYPE_CHECKING:
    from .zarr_chunks import AbsentChunks

__all__ = ["CONTAINERS", "NPY", "Container", "XarrayContainer", "open_container", "text"]

NPY = ".npy"


class Container(Protocol):
    """An open file of variables."""

    def names(self) -> list[str]: ...

    def __contains__(self, name: str) -> bool: ...

    def variable(self, name: str) -> Any:
        """Something with shape, dtype and ``[slices]``."""

    def dimensions(self, name: str) -> tuple[str, ...]:
        """Names of its axes; empty where the file names none."""

    def attributes(self, name: str) -> Mapping[str, Any]: ...

    def absent(self, name: str) -> AbsentChunks | None:
        """Where the file lacks what it says to have; None where it is whole, or cannot lack a part."""


def open_container(path: Path) -> Container:
    opener = _OPEN.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"{path}: variables are read from {', '.join(_OPEN)} files, not {path.suffix!r}")
    if not path.exists():
        raise ValueError(f"{path}: no such file. Check the folder (--data) and the file pattern")
    with decoding(path):
        return opener(path)


class _Hdf5:
    def __init__(self, path: Path) -> None:
        import h5py

        with suppress(ImportError):  # registers further compression filters where it is installed
            import hdf5plugin  # noqa: F401

        self.file = h5py.File(path, "r")

    def names(self) -> list[str]:
        import h5py

        found: list[str] = []
        self.file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return found

    def __contains__(self, name: str) -> bool:
        return hdf5_has(self.file, name)

    def variable(self, name: str) -> Any:
        found = hdf5_dataset(self.file, name)
        if not hasattr(found, "shape"):
            raise ValueError(f"{self.file.filename}: {name!r} is a group; it holds {', '.join(found) or 'nothing'}")
        return found

    def dimensions(self, name: str) -> tuple[str, ...]:
        found = hdf5_dataset(self.file, name)
        scales = [list(dimension.keys()) for dimension in found.dims]
        labels = [dimension.label for dimension in found.dims]
        if "_Netcdf4Dimid" in found.attrs and all(scales):  # written by NetCDF: the name of the scale
            labels = [dimension[0].name.rpartition("/")[2] for dimension in found.dims]
        return tuple(labels) if labels and all(labels) else ()

    def attributes(self, name: str) -> Mapping[str, Any]:
        skipped = ("DIMENSION_LIST", "REFERENCE_LIST")
        return {key: _scalar(value) for key, value in hdf5_dataset(self.file, name).attrs.items() if key not in skipped}

    def absent(self, name: str) -> AbsentChunks | None:
        return None

    def close(self) -> None:
        self.file.close()


class XarrayContainer:
    """NetCDF and Zarr, whose dimensions, text and attributes xarray understands; numbers and times as stored."""

    def __init__(
        self, opener: Callable[[str], Any], absent: Callable[[str], AbsentChunks | None] | None = None
    ) -> None:
        self._opener, self._absent = opener, absent
        self._groups = {"": opener("")}

    def names(self) -> list[str]:
        return [str(name) for name in self._groups[""].variables]

    def _split(self, name: str) -> tuple[Any, str]:
        group, _, own = name.strip("/").rpartition("/")
        if group not in self._groups:
            self._groups[group] = self._opener(group)
        return self._groups[group], own

    def __contains__(self, name: str) -> bool:
        try:
            group, own = self._split(name)
        except (OSError, KeyError, ValueError):  # no such group
            return False
        return own in group.variables

    def variable(self, name: str) -> Any:
        group, own = self._split(name)
        found = group.variables[own]
        return found.array if isinstance(found, _PlainArray) else _Lazy(found)

    def dimensions(self, name: str) -> tuple[str, ...]:
        group, own = self._split(name)
        return tuple(str(dimension) for dimension in group.variables[own].dims)

    def attributes(self, name: str) -> Mapping[str, Any]:
        group, own = self._split(name)
        return {key: _scalar(value) for key, value in group.variables[own].attrs.items()}

    def absent(self, name: str) -> AbsentChunks | None:
        return None if self._absent is None else self._absent(name)

    def close(self) -> None:
        for group in self._groups.values():
            group.close()


class _Lazy:
    """A variable of xarray, read when it is sliced."""

    def __init__(self, variable: Any) -> None:
        self._variable, self.shape, self.dtype = variable, variable.shape, variable.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self._variable[index].values)


class _Named:
    """Arrays by name and nothing else: NPZ and .npy."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays

    def names(self) -> list[str]:
        return list(self._arrays)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def variable(self, name: str) -> Any:
        return self._arrays[name]

    def dimensions(self, name: str) -> tuple[str, ...]:
        return ()

    def attributes(self, name: str) -> Mapping[str, Any]:
        return {}

    def absent(self, name: str) -> AbsentChunks | None:
        return None

    def close(self) -> None:
        if hasattr(self._arrays, "close"):
            self._arrays.close()


# Text is joined and nothing else: numbers and times are decoded with what the description overrides.
_AS_STORED: dict[str, Any] = {
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "decode_coords": False,
    "chunks": None,
}


def _netcdf(path: Path) -> Container:
    import xarray

    with path.open("rb") as file:
        start = file.read(4)
    if start[:3] == b"CDF":
        classic = start[3:] in (b"\1", b"\2")
        engine = _installed(path, {"scipy": "scipy", "netCDF4": "netcdf4"} if classic else {"netCDF4": "netcdf4"})
    elif start[1:] == b"HDF":
        refuse_links(path)
        engine = _installed(path, {"h5netcdf": "h5netcdf", "netCDF4": "netcdf4"})
    else:
        raise OSError("neither NetCDF 3 nor NetCDF 4 by its first bytes")

    def group(name: str) -> Any:
        return xarray.open_dataset(path, group=name or None, engine=engine, **_AS_STORED)

    return XarrayContainer(group)


def _installed(path: Path, engines: Mapping[str, str]) -> str:
    """The first engine of xarray whose module is there."""
    from importlib.util import find_spec

    for module, engine in engines.items():
        if find_spec(module) is not None:
            return engine
    raise ValueError(f"{path}: needs {' or '.join(engines)}: pip install {next(iter(engines))}")


def _npy(path: Path) -> Container:
    return _Named({"": open_array(path)})


def _npz(path: Path) -> Container:
    return _Named(open_npz(path))


def _zarr(path: Path) -> Container:
    import xarray
    import zarr

    from .zarr_chunks import absent_chunks
    from .zarr_store import CheckedStore

    def group(name: str) -> Any:
        try:
            return xarray.open_zarr(CheckedStore(path), group=name or None, consolidated=False, **_AS_STORED)
        except KeyError:  # no names of dimensions: not written by xarray
            return _Plain(store[name] if name else store)

    try:
        store = zarr.open_group(CheckedStore(path), mode="r")
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(str(error)) from error
    return XarrayContainer(group, lambda name: absent_chunks(store[name.strip("/")], path))


class _Plain:
    """A group of a Zarr store as xarray would hand it out, but without dimensions."""

    def __init__(self, group: Any) -> None:
        self.variables = {name: _PlainArray(array) for name, array in group.arrays()}

    def close(self) -> None:
        pass


@dataclass(frozen=True, eq=False)
class _PlainArray:
    array: Any
    dims: tuple[str, ...] = ()

    @property
    def attrs(self) -> dict[str, Any]:
        return dict(self.array.attrs)


_OPEN: dict[str, Callable[[Path], Container]] = {
    ".h5": _Hdf5,
    ".hdf5": _Hdf5,
    ".he5": _Hdf5,
    ".nc": _netcdf,
    ".nc4": _netcdf,
    ".npz": _npz,
    NPY: _npy,
    ".zarr": _zarr,
}

CONTAINERS = tuple(suffix for suffix in _OPEN if suffix != NPY)  # of several variables by name


def _scalar(value: Any) -> Any:
    """Attributes of one element are arrays in some files and numbers in others."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    return text(value) if isinstance(value, bytes | np.bytes_) else value


def text(value: Any) -> str:
    """Names and attributes are bytes in some files."""
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()
