"""Files and folders that take the place of others once they are whole, and what a kill leaves of them."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["beside", "explained", "replacing", "replacing_folder", "sweep"]

_FORMER = ".former"


def beside(path: Path) -> dict[str, Any]:
    """Where :mod:`tempfile` puts what becomes ``path``, or helps to make it."""
    return {"prefix": f".{path.name}.writing-", "dir": path.parent}


def sweep(path: Path) -> None:
    """Removes what killed processes left of their attempts to write ``path``; for who alone may write it.

    A folder that one of them had moved aside, and nothing has taken the place of, is moved back.
    """
    left = list(path.parent.glob(f"{glob.escape(beside(path)['prefix'])}*"))
    for former in (file for file in left if file.name.endswith(_FORMER)):
        if not path.exists():
            former.rename(path)
    for file in left:
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong with files within is said of ``path``, which they become.

    Raises:
        RuntimeError: instead of the system's error, and of rasterio's, which is one, too.
    """
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"writing {path} failed: {error.strerror or error}; nothing was replaced") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if the block succeeds and is removed if it fails.

    Raises:
        RuntimeError: the disk is full or the folder cannot be written; a file that was there is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=path.suffix, **beside(path))
        os.close(handle)
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}") from None
    temporary = Path(name)
    try:
        with explained(path):
            yield temporary
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private, ours are the user's to share
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place if the block succeeds and is removed if it fails.

    A folder cannot be replaced in one step as a file can: one that was there is moved aside before, and is put back
    should the second step fail.

    Raises:
        RuntimeError: the disk is full or the folder cannot be written; what was there is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(suffix=path.suffix, **beside(path)))
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        with explained(path):
            yield temporary
            temporary.chmod(0o755)  # mkdtemp's folders are private
            former = temporary.with_name(f"{temporary.name}{_FORMER}")
            if path.exists():
                path.rename(former)
            try:
                temporary.rename(path)
            except OSError:
                if former.exists():
                    former.rename(path)
                raise
            shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
