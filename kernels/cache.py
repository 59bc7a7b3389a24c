"""Where compiled libraries are kept: the user's cache folder or, where there is none, a private temporary one."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

__all__ = ["NAME", "asked_folder", "cache_folder", "home_folder", "temporary_folder"]

NAME = "eo-fusion"


def asked_folder() -> Path | None:
    """``FUSION_CACHE_DIR``, or None.

    Raises:
        OSError: it begins with ``~`` and there is no home folder.
    """
    asked = os.environ.get("FUSION_CACHE_DIR")
    if not asked:
        return None
    folder = os.path.expanduser(asked)  # unlike Path.expanduser leaves alone what it cannot resolve
    if folder.startswith("~"):
        raise OSError(f"FUSION_CACHE_DIR={asked} needs a home folder, and there is none; give an absolute path")
    return Path(folder).absolute()


def home_folder() -> Path | None:
    """``HOME``, or what the password file says; None for a user without either, as containers often run one."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return None


def cache_folder() -> Path:
    """``FUSION_CACHE_DIR``, else ``eo-fusion`` in the user's cache folder, else in a private temporary one.

    Raises:
        OSError: there is not even a folder for temporary files.
    """
    if asked := asked_folder():
        return asked
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache).absolute() / NAME
    home = home_folder()
    return temporary_folder() if home is None else home / ".cache" / NAME


def temporary_folder() -> Path:
    """A folder for this user's libraries among temporary files, which nobody else can write to.

    Code is loaded from it, so one that somebody else has made, or may write to, is passed over for a new one.

    Raises:
        OSError: there is no folder for temporary files, or it cannot be written.
    """
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    folder = Path(tempfile.gettempdir()) / f"{NAME}-{user}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if _is_private(folder):
        return folder
    global _own
    if _own is None:
        _own = Path(tempfile.mkdtemp(prefix=f"{NAME}-"))
    return _own


_own: Path | None = None  # of this process alone


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, and no link to one, that others cannot write to."""
    found = folder.lstat()
    ours = not hasattr(os, "getuid") or found.st_uid == os.getuid()
    return stat.S_ISDIR(found.st_mode) and ours and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
