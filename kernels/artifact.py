"""A compiled library in the cache folder, built there if need be.

A library lives in a folder named by a hash of everything that shapes it. It is built in a temporary folder beside it
and moved into place, under an ``flock`` that the kernel drops when its holder dies, so a killed build leaves neither a
half-written library nor a lock. Racing processes: one builds, the others wait. What is loaded is whole (checksum), and
nobody else may write it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from . import toolchain
from .cache import cache_folder, temporary_folder
from .library_file import distrusted, seal, whole
from .ninja_file import jobs, ninja_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CSRC", "BuildError", "Library", "artifact"]

CSRC = Path(str(importlib.util.find_spec("fusion.csrc").submodule_search_locations[0]))  # type: ignore
_DAY = 24 * 3600
_PATIENCE = 1800.0  # seconds for a library; nvcc takes some minutes


class BuildError(RuntimeError):
    """A library could not be compiled or loaded here; the message says why and what would help."""


@dataclass(frozen=True)
class Library:
    """What one shared object is made of."""

    name: str  # file name without suffix; for a Python module also its import name
    title: str  # for people
    sources: tuple[Path, ...]
    # Command lines, of which the first word is a compiler as ``toolchain`` gives it, which a shell reads.
    compile: dict[str, tuple[str, ...]]  # before "-c source", by the folder of the source
    link: tuple[str, ...]
    identity: str  # what besides sources and command lines decides the binary

    @functools.cached_property
    def key(self) -> str:
        digest = hashlib.sha256(repr((self.compile, self.link, self.identity, torch.__version__)).encode())
        for path in sorted(CSRC.rglob("*")):
            if path.suffix in (".h", ".cuh") or path in self.sources:
                digest.update(path.relative_to(CSRC).as_posix().encode() + b"\0" + path.read_bytes())
        return digest.hexdigest()[:24]


def artifact(library: Library, *, again: bool = False) -> Path:
    """Where the library is, compiled if need be; ``again``: even if there is one, which does not load."""
    try:
        folder = cache_folder()
        path = folder / library.key / f"{library.name}.so"
        reason = distrusted(path) if path.is_file() else None
        if path.is_file() and not (reason or again) and whole(path):
            return path
        if os.environ.get("FUSION_DISABLE_JIT") == "1":
            state = "damaged" if path.is_file() and not reason else f"not to be trusted ({reason})" if reason else ""
            raise BuildError(
                f"{library.title} are {state or 'not compiled yet'} and FUSION_DISABLE_JIT=1; run `fusion build`"
            )
        if fcntl is None:
            raise BuildError("compiling on the fly needs a POSIX system")
    except OSError as error:
        raise BuildError(f"there is no folder for compiled libraries ({error}); set FUSION_CACHE_DIR") from None
    if reason is None:
        try:
            return _built_in(folder, library, again)
        except OSError as error:
            reason = f"cannot write the cache folder {folder} ({error.strerror or error})"
            if os.environ.get("FUSION_CACHE_DIR"):
                raise BuildError(f"{reason}; set FUSION_CACHE_DIR to one that can be written") from None
    try:
        other = temporary_folder()
        path = other / library.key / f"{library.name}.so"
        if again or not (path.is_file() and whole(path)):
            _say(f"{reason}; compiling into {other}, which may not last: set FUSION_CACHE_DIR to a folder that does")
            path = _built_in(other, library, again)
        return path
    except OSError as error:
        raise BuildError(
            f"{reason}, nor one for temporary files ({error.strerror or error}); set FUSION_CACHE_DIR to one that can "
            "be written"
        ) from None


def _built_in(folder: Path, library: Library, again: bool) -> Path:
    """The library below ``folder``, compiled if need be. Raises OSError where that cannot be written."""
    path = folder / library.key / f"{library.name}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)  # whatever the umask, not for others to write
    with _locked(folder / f"{library.key}.lock"):
        if again or not (path.is_file() and whole(path)):  # another process may have built it while we waited
            _sweep(folder)
            _build(library, path)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC  # no link of somebody else's to a file of ours
    with os.fdopen(os.open(path, flags, 0o644), "r+") as file:
        started, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told and time.monotonic() - started > 60:
                    told = True
                    _say(f"another process has been compiling for over a minute (it holds {path})")
                time.sleep(0.05)
        yield  # closing the file releases the lock


def _sweep(folder: Path) -> None:
    """Removes what killed builds left, a day later."""
    for stale in folder.glob("building-*"):
        if time.time() - stale.stat().st_mtime > _DAY:
            shutil.rmtree(stale, ignore_errors=True)


def _build(library: Library, path: Path) -> None:
    started = time.monotonic()
    workplace = Path(tempfile.mkdtemp(prefix="building-", dir=path.parent.parent))
    try:
        (workplace / "build.ninja").write_bytes(
            os.fsencode(ninja_file(library.name, library.sources, library.compile, library.link))
        )
        command = [toolchain.ninja(), "-C", str(workplace), f"-j{jobs()}"]
        verbose = os.environ.get("FUSION_VERBOSE") == "1"
        status, output = _run(command + ["-v"] * verbose, library, workplace)
        if status != 0:
            if full := re.search(r"No space left on device|Disk quota exceeded", output):
                raise OSError(errno.ENOSPC, full.group())
            raise BuildError(f"compiling the {library.title} failed:\n{output[-4000:]}")
        if verbose:
            _say(output)
        path.parent.mkdir(exist_ok=True, mode=0o755)
        seal(workplace / path.name)
        (workplace / path.name).chmod(0o755)
        os.replace(workplace / path.name, path)
    except toolchain.ToolchainError as error:
        raise BuildError(str(error)) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    _say(f"compiled the {library.title} in {time.monotonic() - started:.1f} s (once; kept in {path.parent})")


def _run(command: list[str], library: Library, workplace: Path) -> tuple[int, str]:
    """Status and output of ninja.

    Raises:
        BuildError: it does not end.
    """
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",  # a compiler's words in a locale of its own
        env=os.environ | {"TMPDIR": str(workplace)},  # the user's may be missing, and is not swept
    )
    try:
        output, _ = running.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        raise BuildError(
            f"compiling the {library.title} did not end within {_PATIENCE / 60:g} minutes; FUSION_VERBOSE=1 shows the "
            "commands, CXX names another compiler"
        ) from None
    finally:
        if running.poll() is None:
            running.terminate()  # of which ninja tells its compilers
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(10)
            running.kill()
    return running.returncode, output


def _say(line: str) -> None:
    print(f"fusion: {line}", file=sys.stderr, flush=True)
