"""What is said where a disk is full while a map is made."""

from __future__ import annotations

import errno
import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

from ..training.files import readable_size

__all__ = ["tells_a_full_disk"]

F = TypeVar("F", bound=Callable[..., Any])

_NO_ROOM = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "the file size limit is reached",
}


def tells_a_full_disk(making: F) -> F:
    """A function whose third argument is the map, and which goes on with what it has finished if it is called again."""

    @functools.wraps(making)
    def told(model: Any, data: Any, out: str | Path, **options: Any) -> Any:
        try:
            return making(model, data, out, **options)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            above = next(folder for folder in Path(out).resolve().parents if folder.exists())
            raise RuntimeError(
                f"cannot write {out}: {_NO_ROOM[error.errno]} ({readable_size(shutil.disk_usage(above).free)} free); "
                "what is finished is kept: make room, then run the same command again"
            ) from error

    return cast(F, told)
