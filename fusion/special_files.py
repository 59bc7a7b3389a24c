"""What lies in a folder and is no file: whoever reads it may wait for ever, or read without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["refuse_special"]

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def refuse_special(path: Path | str) -> None:
    """
    Raises:
        ValueError: it is a pipe, a socket or a device.
    """
    try:
        kind = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):  # whoever opens it says why
        return
    if kind:
        raise ValueError(f"{path}: is {kind}, a file is wanted")
