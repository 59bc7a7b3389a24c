"""Opening files of others: each by the format that its name says, with nothing read that lies elsewhere or is no file.

GDAL looks into a file to find its format, so that a ``.tif`` may be a list of addresses to fetch. HDF5 follows links to
other files, archives say how large they will be, and a pipe never ends. What is refused is said with its reason.
"""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.machine import available_memory
from ..special_files import refuse_special
from .mosaics import check_mosaic

if TYPE_CHECKING:
    import h5py

__all__ = ["hdf5_dataset", "hdf5_has", "open_npz", "open_raster", "refuse_links"]

_DRIVERS = {".jp2": "JP2OpenJPEG", ".vrt": "VRT"}
_MOST_LINKS = 8  # on the way to the values of a variable
_SUSPICIOUS = 1 << 28, 500  # bytes that are unpacked, and of how many times fewer; zeros alone are packed 1000 : 1


def open_raster(path: Path | str, **options: Any) -> Any:
    """``rasterio.open`` for reading, by the driver of the name: GeoTIFF, if it is not .jp2 or .vrt.

    Raises:
        ValueError: a .vrt that names data on a network or otherwise not to be read, or no file.
        rasterio.errors.RasterioIOError: as ``rasterio.open``, also for a file of another format than its name says.
    """
    import rasterio

    refuse_special(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".vrt" and os.path.isfile(path):
        check_mosaic(Path(path))
    return rasterio.open(path, driver=_DRIVERS.get(suffix, "GTiff"), **options)


def hdf5_dataset(file: h5py.File, name: str) -> Any:
    """``file[name]``, if it and its values lie in the file, or in one within the same folder.

    Raises:
        KeyError: there is no such thing.
        ValueError: it is linked to, stored in or made of a file elsewhere.
    """
    import h5py

    _follow(file, name, Path(file.filename), name)
    found = file[name]
    if isinstance(found, h5py.Dataset):
        _refuse_stored_elsewhere(found, Path(file.filename), name)
    return found


def hdf5_has(file: h5py.File, name: str) -> bool:
    """``name in file``, without opening what lies elsewhere.

    Raises:
        ValueError: it is linked to from a file elsewhere.
    """
    try:
        _follow(file, name, Path(file.filename), name)
    except KeyError:
        return False
    return name in file


def refuse_links(path: Path) -> None:
    """Of a NetCDF 4 file: as :func:`hdf5_dataset` of all that is in it, where h5py is installed."""
    try:
        import h5py
    except ImportError:
        return
    links: list[str] = []
    arrays: list[str] = []
    with h5py.File(path, "r") as file:
        # What is raised within a visit to links may end as a SystemError of h5py.
        file.visititems_links(lambda name, link: None if isinstance(link, h5py.HardLink) else links.append(name))
        file.visititems(lambda name, found: arrays.append(name) if isinstance(found, h5py.Dataset) else None)
        for name in links:
            with suppress(KeyError):  # it leads nowhere
                _follow(file, name, path, name)
        for name in arrays:
            _refuse_stored_elsewhere(file[name], path, name)


def _follow(file: h5py.File, name: str, path: Path, told: str, depth: int = 0) -> None:
    """Looks at each link on the way to an object before HDF5 would follow it.

    Args:
        path: of the file that was opened, ``told`` the name that was asked of it.

    Raises:
        KeyError: there is no such thing.
        ValueError: a link to a file elsewhere, or links without end.
    """
    import h5py

    if depth > _MOST_LINKS:
        raise ValueError(f"{path}: {told!r} is a link to a link, {_MOST_LINKS} times; copy the data into this file")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    for count in range(1, len(parts) + 1):
        way, rest = "/".join(parts[:count]), parts[count:]
        link = file.get(way, getlink=True)
        if link is None:
            raise KeyError(name)
        if isinstance(link, h5py.ExternalLink):
            folder = Path(file.filename).resolve().parent
            _within(folder, link.filename, str(path), told)
            target = folder / os.fsdecode(link.filename)
            refuse_special(target)
            if not target.is_file():
                raise KeyError(name)
            with h5py.File(target, "r") as other:
                _follow(other, "/".join([link.path, *rest]), path, told, depth + 1)
            return
        if isinstance(link, h5py.SoftLink):
            begin = "" if link.path.startswith("/") else "/".join(parts[: count - 1])
            _follow(file, "/".join([begin, link.path, *rest]), path, told, depth + 1)
            return


def _refuse_stored_elsewhere(found: h5py.Dataset, path: Path, name: str) -> None:
    """
    Raises:
        ValueError: its values are those of a file elsewhere.
    """
    folder = Path(found.file.filename).resolve().parent
    for stored, *_ in found.external or ():
        _within(folder, stored, str(path), name)
    if found.is_virtual:
        for source in found.virtual_sources():
            _within(folder, source.file_name, str(path), name)


def _within(folder: Path, target: str | bytes, file: str, name: str) -> None:
    target = os.fsdecode(target)
    if target in (".", "") or (folder / target).resolve().is_relative_to(folder):
        return
    raise ValueError(
        f"{file}: {name!r} lies in another file, {target}, outside its folder {folder}; copy that file there, or the "
        "data into this one (h5repack)"
    )


def open_npz(path: Path) -> Any:
    """``numpy.load`` of an archive of arrays without Python objects.

    Raises:
        ValueError: an array that would not fit into memory, or is packed far too well to be data.
        OSError, zipfile.BadZipFile: as ``numpy.load``.
    """
    refuse_special(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    free = available_memory()
    for member in members:
        size, packed = member.file_size, max(member.compress_size, 1)
        told = f"{path}: {member.filename} would take {size / 2**30:.1f} GiB unpacked"
        if size > free // 2:
            raise ValueError(
                f"{told}, {free / 2**30:.1f} GiB of memory are free; save it as .npy, of which parts are read"
            )
        if size > _SUSPICIOUS[0] and size > _SUSPICIOUS[1] * packed:
            raise ValueError(
                f"{told}, {size // packed} times its {packed} bytes: no data are packed so well; if it is right, save "
                "it as .npy"
            )
    return np.load(path, allow_pickle=False)
