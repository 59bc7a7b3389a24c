"""Memory that a command frees and asks for again a moment later.

GNU's C library gives large blocks, and a heap whose upper end is free, back to the system. Each step of a training then
has every page of its maps cleared and mapped anew, which takes a tenth of a step (benchmarks/README.md). A command is
there to take many such steps, so it keeps what it will ask for again; up to a gigabyte more than it uses.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_KEPT = 1 << 30
_LARGEST = 32 << 20  # bytes of a block on the heap: the most that the library allows
_ASKED = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether freed memory is kept from now on: with GNU's C library, unless the environment tells it otherwise."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None or any(name in environment for name in _ASKED):
        return False
    # One alone would stop the library from moving the other, and be worse than neither.
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST) and mallopt(_TRIM_THRESHOLD, _KEPT))
