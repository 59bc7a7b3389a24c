"""One process at a time writes into a folder of results."""

from __future__ import annotations

import errno
import functools
import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "alone", "alone_in"]

F = TypeVar("F", bound=Callable[..., Any])

LOCK = ".lock"
_held: set[Path] = set()  # folders that this process has already


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Refuses a second process within; its lock dies with its holder, and what holds the folder already may come again.

    Of the ranks of one training the first holds the folder for all. The file ``.lock`` says who it is, and is gone at
    the end, as are folders that were made for nothing.

    Raises:
        RuntimeError: another process is at work there (the message says which), or the folder cannot be written.
    """
    place = folder.resolve()
    if fcntl is None or place in _held or not _leads():
        yield
        return
    made = [above for above in (place, *place.parents) if not above.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(place / LOCK, folder)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"run folder {folder} is a file, or lies in one; give a folder, e.g. runs/a") from None
    except OSError as error:
        raise RuntimeError(f"cannot write into {folder}: {error.strerror or error}") from None
    _held.add(place)
    try:
        yield
    finally:
        _held.discard(place)
        if descriptor is not None:
            (place / LOCK).unlink(missing_ok=True)  # while it is held: who waits for it looks whether it is still there
            os.close(descriptor)
        with suppress(OSError):  # not empty, as a rule
            for above in made:
                above.rmdir()


def alone(training: F) -> F:
    """A function whose fourth argument is the run folder, which its process has for itself; see :func:`alone_in`."""

    @functools.wraps(training)
    def held(module: Any, train: Any, validation: Any, run: Path | str, **settings: Any) -> Any:
        with alone_in(Path(run)):
            return training(module, train, validation, run, **settings)

    return cast(F, held)


def _locked(path: Path, folder: Path) -> int | None:
    """The descriptor of the file, locked; None where the file system knows no locks.

    By POSIX, whose locks processes that read tiles do not inherit: they outlive a killed one for some seconds.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # what a lock of another process is called depends on the system
            holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise RuntimeError(
                f"{folder} is in use: {holder}. Wait until it has ended, or give another folder"
            ) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            warnings.warn(f"the file system of {folder} has no locks: nothing keeps two runs apart there", stacklevel=2)
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                break
        os.close(descriptor)  # its former holder has removed the file since
    now = datetime.now(UTC).isoformat(timespec="seconds")
    told = f"process {os.getpid()} on {socket.gethostname()} since {now}, {' '.join(sys.argv) or 'interactive'}"
    os.truncate(descriptor, 0)
    os.write(descriptor, told.encode(errors="replace"))
    return descriptor


def _leads() -> bool:
    """Whether this process is the first of those that train one model, by torchrun, Lightning or Slurm."""
    numbers = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))
    return all(number == "0" for number in numbers)
