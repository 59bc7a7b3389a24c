"""Open files, of which a process may have only so many."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["Handles"]

Handle = TypeVar("Handle")


class Handles:
    """The files used last, kept open; beyond ``most`` of them the one unused for longest is closed.

    A handle belongs to the thread and process that opened it: libraries of formats share neither. Not sent to other
    processes, which open the files again.

    Args:
        most: files open at a time; by default a quarter of what the system allows a process (``ulimit -n``), for
            torch, loaders and others need theirs.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = _allowed() if most is None else most
        self._open: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"most": self.most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["most"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._open)

    def get(self, key: Hashable, opener: Callable[[], Handle]) -> Handle:
        """The open file of this thread, opened by ``opener`` if need be."""
        own = (os.getpid(), threading.get_ident(), key)
        with self._lock:
            if own in self._open:
                self._open.move_to_end(own)
                found: Handle = self._open[own]
                return found
        handle = opener()
        with self._lock:
            self._open[own] = handle
            while len(self._open) > self.most:
                oldest, unused = self._open.popitem(last=False)
                # One of another thread may be in use there, one of a parent process is not ours to close: they close
                # when nothing refers to them.
                if oldest[:2] == own[:2] and hasattr(unused, "close"):  # type: ignore[index]
                    unused.close()
        return handle


def _allowed() -> int:
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):  # not on this system
        limit = 1024
    return 256 if limit < 0 else max(8, min(256, limit // 4))
