"""Reading files that may be missing, damaged or other than promised."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..special_files import refuse_special

try:  # here and not where it is needed, which is when no file can be opened any more
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = ["DamagedFile", "decoding", "need_keys", "one_message", "read_json", "reading"]

_DAMAGED = "cannot be read, the file is damaged or incomplete: copy or download it again"
_CAUGHT = (OSError, EOFError, ImportError, ValueError, RuntimeError, KeyError, zipfile.BadZipFile, zlib.error)
# What libraries raise of any file that is no whole file of its format; other ValueErrors may mean anything.
_OF_THE_FILE = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
_OF_A_CHUNK = re.compile(r"(?i)decompress|data corruption|checksums? do(es)? not match|cannot reshape array")  # of Zarr
# Of HDF5, for structures within a file that are none; that a name is not there is another matter.
_OF_HDF5 = re.compile(r"(?i)unable to (?:a?synchronously )?\w+|(?:visitation|iteration) failed")
_NOT_THERE = re.compile(r"(?i)doesn't exist|component not found")
# What a library raises of a content that its authors did not think of.
_OF_A_LIBRARY = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError,
    struct.error, tokenize.TokenError,
)  # fmt: skip
# GDAL and HDF5 tell the operating system's errors in their text.
_TEXTS = {
    "too many open files": errno.EMFILE,
    "no space left on device": errno.ENOSPC,
    "permission denied": errno.EACCES,
    "no such file": errno.ENOENT,
    "is a directory": errno.EISDIR,
    "input/output error": errno.EIO,
    "stale file handle": errno.ESTALE,
    "cannot allocate memory": errno.ENOMEM,
}
_KINDS = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR}
# How a file begins that is something else than its name says -> what it is and what to do.
_DISGUISES = (
    (rb"version https://git-lfs", "is a pointer of Git LFS and not the file itself: run `git lfs pull`"),
    (rb"(?:\.\./)*(?:\.git)?/annex/objects/", "is a pointer of git-annex and not the file itself: run `git annex get`"),
    (
        rb"(?i)\s*(?:<!doctype html|<html|<head)",
        "is a web page and not the file: what was downloaded is a page, of a login or an error; download it again",
    ),
    (
        rb"(?i)\s*(?:<\?xml[^>]*>)?\s*<error>",
        "is a server's error message in XML and not the file: check address and rights, download it again",
    ),
)


_OF_ZARR = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")  # a store of Zarr is a folder


class DamagedFile(ValueError):
    """A part of a file cannot be decoded; other parts of it, and other files, may be whole."""


@contextmanager
def reading(path: Path, *, chunks: bool = False) -> Iterator[None]:
    """Turns whatever a file library raises into a ValueError that begins with the path and ends with the fix.

    The fix is that of the true cause: a missing file, permission or package, a limit of the system, a file that is a
    placeholder or a web page; "damaged or incomplete" (:class:`DamagedFile`) is what is left.

    Args:
        chunks: what is read may be of Zarr, whatever is at ``path``.
    """
    refuse_special(path)
    try:
        yield
    except DamagedFile:  # of a file within
        raise
    except _CAUGHT as error:
        told = _told(path, error, chunks or _is_zarr(path))
        if told is None:
            raise
        kind = DamagedFile if told.startswith(_DAMAGED) else ValueError
        raise kind(f"{path}: {told}") from error
    except MemoryError as error:
        raise MemoryError(
            f"{path}: does not fit into memory ({error or 'none is left'}); if it is right, save it in chunks, or use "
            "smaller tiles"
        ) from error


@contextmanager
def decoding(path: Path, *, chunks: bool = False) -> Iterator[None]:
    """As :func:`reading`, around calls of a library that decodes a file and nothing else: there whatever is raised,
    also what says nothing of a file (an index out of bounds, a shape that does not fit), is damage to it."""
    with reading(path, chunks=chunks):
        try:
            yield
        except (DamagedFile, UnicodeDecodeError, zipfile.BadZipFile):
            raise
        except _OF_A_LIBRARY as error:
            if str(error).startswith(str(path)):  # of ours, which says it better
                raise
            raise OSError(_said(error)) from error


def _told(path: Path, error: BaseException, chunks: bool) -> str | None:
    """What is wrong and the fix; None for an error that says so itself."""
    text = _said(error)
    why = text.splitlines()[0]
    text = f"{text} {error.__cause__ or ''}"  # rasterio: "Read failed. See previous exception for details."
    package = _package(path, error, text)
    if package is not None:
        return f"{package} ({why})"
    if isinstance(error, UnicodeDecodeError):
        return _disguise(path) or f"is not text in UTF-8 ({why}); save it as UTF-8, or copy it again"
    if isinstance(error, RuntimeError | ValueError) and chunks and _OF_A_CHUNK.search(text):
        return f"{_DAMAGED} ({why})"
    if isinstance(error, RuntimeError | KeyError) and _OF_HDF5.search(text) and not _NOT_THERE.search(text):
        return _disguise(path) or f"{_DAMAGED} ({why})"
    if not isinstance(error, _OF_THE_FILE):
        return None
    system = _of_the_system(error, text)
    if system is not None:
        return system
    return _disguise(path) or f"{_DAMAGED} ({why})"


def _said(error: BaseException) -> str:
    """What an error says, or its kind where that is nothing; str(KeyError) would quote it."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip() or type(error).__name__


def _package(path: Path, error: BaseException, text: str) -> str | None:
    """Which package is missing that would read this file; None where none is."""
    low = text.lower()
    if "cftime" in low and importlib.util.find_spec("cftime") is None:
        return "its calendar needs cftime: pip install cftime"
    if isinstance(error, ImportError):
        name = error.name or "a package"
        return f"needs {name}, which is not installed: pip install {name.partition('.')[0]}"
    # HDF5 first looks for a plugin, and complains of the folder of plugins where there is none.
    if re.search(r"can't open directory|required filter|filter .*not registered|undefined filter", low):
        return "is compressed by a filter of HDF5 that is not installed: pip install hdf5plugin, then import hdf5plugin"
    codec = re.search(r"(?:codec not available|unknown codec)[:\s]*'*([\w.]+)", text, re.IGNORECASE)
    if codec:
        return f"is compressed by the codec {codec[1]}, which is not installed: pip install numcodecs imagecodecs"
    if "missing codec" in low:
        return "is compressed by a codec that this GDAL lacks: rewrite it with gdal_translate -co COMPRESS=DEFLATE"
    if "engine" in low and re.search(r"unrecognized engine|io backends", low):
        return (
            _disguise(path)
            or "no installed package reads this kind of file: pip install netCDF4 (NetCDF 3: scipy or netCDF4)"
        )
    return None


def _of_the_system(error: BaseException, text: str) -> str | None:
    """Of errors of the operating system, which are no fault of the file's content."""
    number = getattr(error, "errno", None)
    if number is None:
        number = next((n for kind, n in _KINDS.items() if isinstance(error, kind)), None)
    if number is None:
        number = next((n for words, n in _TEXTS.items() if words in text.lower()), None)
    if number in (errno.EMFILE, errno.ENFILE):
        limit = "" if resource is None else f" (the limit is {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
        return f"cannot be opened, too many files are open{limit}: raise the limit with `ulimit -n 65536`"
    return {
        errno.ENOENT: "no such file. Check the folder (--data) and the file names",
        errno.EISDIR: "is a folder, a file is wanted",
        errno.ENOTDIR: "no such file: a part of this path is a file, not a folder",
        errno.ENOSPC: "cannot be read, no space is left on the device: free some, or set TMPDIR to another disk",
        errno.EACCES: "cannot be read, permission denied: give yourself the right to read it (chmod, owner)",
        errno.EPERM: "cannot be read, permission denied: give yourself the right to read it (chmod, owner)",
        errno.EAGAIN: "is locked, another program writes it: close that, or set HDF5_USE_FILE_LOCKING=FALSE",
        errno.EIO: "cannot be read, the disk or the network reports an input/output error: check it, then try again",
        errno.ESTALE: "cannot be read, the network file system has lost it (stale handle): mount it again",
        errno.ENOMEM: "cannot be read, not enough memory: use fewer workers or smaller tiles",
    }.get(number)  # type: ignore[arg-type]


def _disguise(path: Path) -> str | None:
    """What a file is that is not what its name says; None where it may be a damaged one of its kind."""
    try:
        if os.path.isdir(path):
            return None if _is_zarr(path) else "is a folder, a file is wanted"
        with open(path, "rb") as file:
            begin = file.read(512)
    except OSError:
        return None
    if not begin:
        return "the file is damaged or incomplete: it is empty (0 bytes); copy or download it again"
    return next((told for pattern, told in _DISGUISES if re.match(pattern, begin)), None)


def _is_zarr(path: Path) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in _OF_ZARR)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: no such file, not JSON, or a key that is given twice with different values; the message begins
            with the path.
    """
    with reading(path):
        text = path.read_text(encoding="utf-8-sig")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        told = _disguise(path) or f"is not JSON ({error}), it may be half copied; copy or download it again"
        raise ValueError(f"{path}: {told}") from error
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]!r} is given twice with different values; keep one of them") from None


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a dictionary; KeyError with a key that has two values, of which JSON's reader takes the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise KeyError(key)
    return found


def need_keys(path: Path, present: Sequence[str], wanted: Sequence[str]) -> None:
    """
    Raises:
        ValueError: the file lacks one of the ``wanted`` keys; the message lists those it has.
    """
    missing = [key for key in wanted if key not in present]
    if missing:
        raise ValueError(f"{path}: no {', '.join(map(repr, missing))} in the file; it has {', '.join(sorted(present))}")


def one_message(problems: Sequence[str], what: str, limit: int = 20) -> str:
    """Every problem in one message, so that nobody repairs files one error at a time."""
    listed = "\n  ".join(problems[:limit])
    more = f"\n  ... and {len(problems) - limit} more" if len(problems) > limit else ""
    return f"{what}:\n  {listed}{more}"
