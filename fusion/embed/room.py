"""What is said where a disk is full while a map is made."""

from __future__ import annotations

import errno
import functools
import inspect
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
    """A function that writes its argument ``out``, and goes on with what it has finished if it is called again."""
    signature = inspect.signature(making)

    @functools.wraps(making)
    def told(*given: Any, **options: Any) -> Any:
        try:
            return making(*given, **options)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            out = signature.bind(*given, **options).arguments["out"]
            above = next(folder for folder in Path(out).resolve().parents if folder.exists())
            raise RuntimeError(
                f"cannot write {out}: {_NO_ROOM[error.errno]} ({readable_size(shutil.disk_usage(above).free)} free); "
                "what is finished is kept: make room, then run the same command again"
            ) from error

    return cast(F, told)
