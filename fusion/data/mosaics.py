"""Virtual mosaics of GDAL (.vrt) of others: what they name is looked at before GDAL opens any of it.

A source may be a further mosaic, whatever its name, an address, or a text by which one of GDAL's drivers asks a server.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from ..special_files import refuse_special

__all__ = ["check_mosaic"]

_MOST = 8  # mosaics within each other
_SIZE = 64 << 20  # bytes of a mosaic
_SOURCES = ("sourcefilename", "sourcedataset")
_NETWORK = re.compile(
    r"(?:/vsi(?:curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs|stdin|crypt|plugin)\w*|[a-z][a-z0-9+.-]*://)\S*", re.I
)
_ARCHIVE = re.compile(r"/vsi\w+/\S*", re.I)
_DRIVER = re.compile(r"([a-z]\w+):", re.I)  # of two letters or more: no drive of Windows
_LOCAL = ("netcdf", "hdf5", "hdf4_sds", "hdf4_eos", "gtiff_dir", "zarr", "vrt")  # drivers that name a file
_TEXTS = (b"<", b"{", b"http")  # how descriptions of what lies elsewhere begin


def check_mosaic(path: Path) -> None:
    """
    Raises:
        ValueError: it names data on a network, in an archive or by a driver of GDAL that may ask a server, a text that
            may do so, mosaics without end, or is no XML.
    """
    _check(path, path, 0)


def _check(path: Path, first: Path, depth: int) -> None:
    refuse_special(path)
    if depth >= _MOST:
        raise ValueError(f"{first}: mosaics lie in each other more than {_MOST} deep; name the files themselves")
    if path.stat().st_size > _SIZE:
        raise ValueError(f"{first}: {path.name} has more than {_SIZE >> 20} MiB, no mosaic has; copy it again")
    _check_text(path.read_bytes(), path, first, depth)


def _check_text(content: bytes, path: Path, first: Path, depth: int) -> None:
    if b"<!" in content.replace(b"<!--", b"").replace(b"<![CDATA[", b""):
        raise ValueError(f"{first}: {path.name} has a DOCTYPE, which mosaics have not; write it anew (gdalbuildvrt)")
    try:
        root = ElementTree.fromstring(content.lstrip(b"\xef\xbb\xbf \t\r\n"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ValueError(
            f"{first}: {path.name} cannot be read, the file is damaged or incomplete: write it anew, e.g. by "
            f"gdalbuildvrt ({error})"
        ) from error
    for element in root.iter():
        for text in (element.text or "", *element.attrib.values()):
            remote = _NETWORK.search(text)
            if remote and not _is_name_of_standard(element.tag, text):
                raise ValueError(
                    f"{first}: names data on a network, {remote[0][:100]}; download them, and name the files"
                )
        if element.tag.lower() in _SOURCES:
            _check_source(element, path, first, depth)


def _is_name_of_standard(tag: str, text: str) -> bool:
    """Addresses in metadata that are names, such as that of a licence, and are not opened."""
    return tag.lower() == "mdi" and text.lstrip().lower().startswith(("http://", "https://"))


def _check_source(element: ElementTree.Element, path: Path, first: Path, depth: int) -> None:
    text = (element.text or "").strip()
    if text.startswith("<"):
        if depth + 1 >= _MOST:
            raise ValueError(f"{first}: mosaics lie in each other more than {_MOST} deep; name the files themselves")
        _check_text(text.encode(), path, first, depth + 1)
        return
    archive = _ARCHIVE.search(text)
    if archive:
        raise ValueError(f"{first}: names data in an archive, {archive[0][:100]}; unpack it, and name the files")
    driver = _DRIVER.match(text)
    if driver and driver[1].lower() not in _LOCAL:
        raise ValueError(f"{first}: names data by the driver {driver[1]} of GDAL, {text[:100]}; name files")
    for file in _files(text, path.parent):
        with file.open("rb") as opened:
            begin = opened.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
        if file.suffix.lower() == ".vrt" or begin.startswith(b"<VRT"):
            _check(file, first, depth + 1)
        elif begin.lower().startswith(_TEXTS):
            raise ValueError(
                f"{first}: names {file.name}, a text that may name data elsewhere, no raster; name the files themselves"
            )


def _files(text: str, folder: Path) -> Iterator[Path]:
    """Those that a source may mean: relative to the mosaic or to the working folder, also within quotes of a driver."""
    quoted = re.findall(r'"([^"]+)"', text)
    names = [text, *quoted, text.partition(":")[2].rpartition(":")[0], text.partition(":")[2], text.rpartition(":")[2]]
    for name in dict.fromkeys(filter(None, names)):
        for file in (folder / name, Path(name)):
            try:
                found = file.is_file()
                refuse_special(file)
            except (OSError, ValueError) as error:
                if isinstance(error, ValueError) and "a file is wanted" in str(error):
                    raise
                continue
            if found:
                yield file
