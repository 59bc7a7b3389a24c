"""Writing files so that a full disk or a kill leaves what was there before."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["readable_size", "write_atomically"]

_PARTIAL = ".partial"


def write_atomically(path: Path | str, content: bytes) -> Path:
    """Replaces ``path`` by ``content``, or leaves it untouched.

    The bytes go to a hidden file beside the target, are flushed to the disk, and take the target's name in one step
    (``os.replace``). Whoever reads ``path`` sees the old file or the new one, never a part. Of processes that write one
    path at the same time the last wins.

    Raises:
        RuntimeError: there is no space (names path, free and needed space), or the folder cannot be written.
    """
    path = Path(path)
    partial: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)  # a left-over must not count against the free space
        if shutil.disk_usage(path.parent).free < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _opened(path) as file:
            partial = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.replace(partial, path)
    except OSError as error:
        if partial is not None:
            with suppress(OSError):
                partial.unlink()
        raise RuntimeError(_explain(path, len(content), error)) from error
    return path


def _opened(path: Path) -> BinaryIO:
    """A new file beside ``path``, locked until it is closed: so :func:`_sweep` knows that its writer lives."""
    while True:
        partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_PARTIAL}")
        file = open(partial, "xb")  # noqa: SIM115 - the caller closes it
        if fcntl is not None:
            with suppress(OSError):  # of a file system that has no locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if partial.exists():  # else it was swept before it was locked
            return file
        file.close()


def _sweep(path: Path) -> None:
    """Removes what killed writers of ``path`` left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_PARTIAL}"):
        with suppress(OSError), open(left, "rb") as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            left.unlink()


def readable_size(count: float) -> str:
    """``readable_size(3.2e9)`` is ``"3.0 GiB"``."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _explain(path: Path, needed: int, error: OSError) -> str:
    kept = "the file that was there before is untouched" if path.exists() else "nothing was written"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = readable_size(shutil.disk_usage(path.parent).free)
        reason = {errno.EDQUOT: "the quota is used up", errno.EFBIG: "the file size limit is reached"}
        return (
            f"cannot save {path}: {reason.get(error.errno, 'the disk is full')} ({free} free, "
            f"{readable_size(needed)} needed); {kept}. Free some space or choose another run folder, then run the "
            "same command again"
        )
    return f"cannot save {path}: {error.strerror or error} ({readable_size(needed)} needed); {kept}"
