"""Who is at work on which part of a map, told to other processes by locks on bytes of one file."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Claims"]


class Claims:
    """A lock dies with its holder, so that what a killed process was at work on is free.

    One file descriptor serves them all: a process that closes any of a file loses all its locks on it (POSIX). Network
    file systems must know such locks, as NFS 4 and Lustre (mounted with flock) do.

    Args:
        path: the file, which is made when it is first needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def take(self, part: int) -> bool:
        """Whether part ``part``, from 0, is now this process's."""
        file = self._file()
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 + part)
        except (BlockingIOError, PermissionError):  # what a lock of another process is called depends on the system
            return False
        return True

    @contextmanager
    def holding(self, part: int) -> Iterator[bool]:
        """:meth:`take`, and gives it back at the end."""
        mine = self.take(part)
        try:
            yield mine
        finally:
            if mine:
                self.give_back(part)

    def give_back(self, part: int) -> None:
        fcntl.lockf(self._file(), fcntl.LOCK_UN, 1, 1 + part)

    def give_all_back(self) -> None:
        fcntl.lockf(self._file(), fcntl.LOCK_UN, 0, 1)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """For what one process does and the others wait for. False where the file's folder is gone."""
        try:
            file = self._file()
        except FileNotFoundError:
            yield False
            return
        fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
        try:
            yield True
        finally:
            self.close()

    def close(self) -> None:
        """Gives all back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _file(self) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        return self._descriptor
