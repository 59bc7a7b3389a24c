"""Folders that appear whole or not at all, and sizes of the parts in which large arrays are kept."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["chunk_side", "replacing_folder"]

_LARGEST_CHUNK = 8 * 2**20  # bytes


def chunk_side(dim: int, itemsize: int, *, least: int = 16) -> int:
    """Pixels per side of the part of a raster that is read at once, with all of its dimensions.

    The largest power of two, 256 at most, of which all dimensions take no more than 8 MiB before compression: large
    enough that the time of a request is well spent, small enough that the vector of one place does not cost hundreds
    of megabytes. 64 dimensions of int8 have 256 pixels a side (4 MiB), 768 of float32 32 (3 MiB).

    Args:
        dim: dimensions of the embedding.
        itemsize: bytes of a number.
        least: what the result is never below.
    """
    side = 256
    while side > least and dim * side * side * itemsize > _LARGEST_CHUNK:
        side //= 2
    return side


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
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent))
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's folders are private
        former = temporary.with_name(f"{temporary.name}.former")
        if path.exists():
            path.rename(former)
        try:
            temporary.rename(path)
        except OSError:
            if former.exists():
                former.rename(path)
            raise
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise RuntimeError(f"writing {path} failed: {error}; nothing was replaced") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
