"""Compiled libraries on disk: whole, and of somebody whose code may be run."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

__all__ = ["distrusted", "seal", "whole"]

_MARK = b"\nsha256:"
_LENGTH = len(_MARK) + 64


def seal(path: Path) -> None:
    """Appends the checksum of all before it, which loaders do not look at, and has the disk keep it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with open(path, "ab") as file:
        file.write(_MARK + digest.encode())
        file.flush()
        os.fsync(file.fileno())


def whole(path: Path) -> bool:
    """Whether the bytes are those that were sealed. A truncated library would end the process that loads it."""
    content = path.read_bytes()
    code, told = content[:-_LENGTH], content[-_LENGTH:]
    return told == _MARK + hashlib.sha256(code).hexdigest().encode()


def _owners() -> tuple[int, int]:
    """This user and root."""
    return os.getuid(), 0


def distrusted(path: Path) -> str | None:
    """Why a library must not be loaded, or None: it, its folder or the cache may be written by somebody else.

    Owners may be this user and root. A folder for all to write, as ``/tmp``, is none that others can change where only
    owners may rename (sticky).
    """
    if not hasattr(os, "getuid"):
        return None
    if path.is_symlink():
        return f"{path} is a link"
    for place in (path, path.parent, path.parent.parent):
        found = place.stat()
        if found.st_uid not in _owners():
            return f"{place} belongs to user {found.st_uid}"
        if found.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
            return f"{place} may be written by everybody"
    return None
