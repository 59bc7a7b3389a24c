"""Opening files of others: each by the format that its name says, with nothing read that lies elsewhere or is no file.

GDAL looks into a file to find its format, so that a ``.tif`` may be a list of addresses to fetch. HDF5 follows links to
other files, archives say how large they will be, and a pipe never ends. What is refused is said with its reason.
"""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.machine import available_memory
from ..special_files import refuse_special

if TYPE_CHECKING:
    import h5py

__all__ = ["hdf5_dataset", "open_npz", "open_raster", "refuse_links"]

_DRIVERS = {".jp2": "JP2OpenJPEG", ".vrt": "VRT"}
_REMOTE = re.compile(
    rb">\s*(/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)[^<\s]*|[a-z][a-z0-9+.-]*://[^<\s]*)", re.I
)
_SUSPICIOUS = 1 << 28, 500  # bytes that are unpacked, and of how many times fewer; zeros alone are packed 1000 : 1


def open_raster(path: Path | str, **options: Any) -> Any:
    """``rasterio.open`` for reading, by the driver of the name: GeoTIFF, if it is not .jp2 or .vrt.

    Raises:
        ValueError: a .vrt that names data on a network, or no file.
        rasterio.errors.RasterioIOError: as ``rasterio.open``, also for a file of another format than its name says.
    """
    import rasterio

    refuse_special(path)
    suffix = Path(path).suffix.lower()
    if suffix == ".vrt" and os.path.isfile(path) and (remote := _REMOTE.search(Path(path).read_bytes())):
        raise ValueError(
            f"{path}: names data on a network, {remote[1].decode(errors='replace')[:100]}; download them, and name the "
            "files"
        )
    return rasterio.open(path, driver=_DRIVERS.get(suffix, "GTiff"), **options)


def hdf5_dataset(file: h5py.File, name: str) -> Any:
    """``file[name]``, if it and its values lie in the file, or in one within the same folder.

    Raises:
        KeyError: there is no such thing.
        ValueError: it is linked to, stored in or made of a file elsewhere.
    """
    import h5py

    folder, parts = Path(file.filename).resolve().parent, [part for part in name.split("/") if part]
    for count in range(1, len(parts) + 1):
        link = file.get("/".join(parts[:count]), getlink=True)
        if isinstance(link, h5py.ExternalLink):
            _within(folder, link.filename, file.filename, name)
    found = file[name]
    if isinstance(found, h5py.Dataset):
        for stored, *_ in found.external or ():
            _within(folder, stored, file.filename, name)
        if found.is_virtual:
            for source in found.virtual_sources():
                _within(folder, source.file_name, file.filename, name)
    return found


def refuse_links(path: Path) -> None:
    """Of a NetCDF 4 file: as :func:`hdf5_dataset` of all that is in it, where h5py is installed."""
    try:
        import h5py
    except ImportError:
        return
    with h5py.File(path, "r") as file:

        def look(name: str, link: Any) -> None:
            if isinstance(link, h5py.ExternalLink):
                _within(Path(path).resolve().parent, link.filename, str(path), name)

        file.visititems_links(look)


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
