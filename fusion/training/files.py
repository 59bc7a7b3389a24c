"""Writing files so that a full disk or a kill leaves what was there before."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

__all__ = ["readable_size", "write_atomically"]


def write_atomically(path: Path | str, content: bytes) -> Path:
    """Replaces ``path`` by ``content``, or leaves it untouched.

    The bytes go to a hidden file beside the target, are flushed to the disk, and take the target's name in one step
    (``os.replace``). Whoever reads ``path`` sees the old file or the new one, never a part.

    Raises:
        RuntimeError: there is no space (names path, free and needed space), or the folder cannot be written.
    """
    path = Path(path)
    # One fixed name per target: what a kill leaves behind is overwritten by the next attempt instead of piling up.
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # a left-over must not count against the free space
        if shutil.disk_usage(path.parent).free < len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise RuntimeError(_explain(path, len(content), error)) from error
    return path


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
