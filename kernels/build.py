"""Compiles ``csrc`` on first use, once for each torch, compiler, Python, CPU and GPU; on a CPU a library for each
package of operators, so that one of them is there in seconds.

A library lives in a cache folder named by a hash of everything that shapes it. It is built in a temporary
folder beside it and moved into place, under an ``flock`` that the kernel drops when its holder dies, so a
killed build leaves neither a half-written library nor a lock. Racing processes: one builds, the others wait.
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
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch

from . import toolchain
from .cache import cache_folder, temporary_folder
from .ninja_file import jobs, ninja_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["CPU", "BuildError", "arrays", "cache_folder", "compile_all", "load"]

CSRC = Path(str(importlib.util.find_spec("fusion.csrc").submodule_search_locations[0]))  # type: ignore
CPU = ("attention", "convolution", "infonce", "pooling", "quantize")  # packages of operators that have C++
_DAY = 24 * 3600


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


@functools.cache
def load(library: str) -> None:
    """Makes compiled operators available under ``torch.ops.fusion``, compiling at need.

    Args:
        library: ``"cuda"``, one of :data:`CPU`, or ``"cpu"`` for all of these.

    Raises:
        BuildError: no compiler, a failed build, a cache folder that cannot be written, or
            ``FUSION_DISABLE_JIT=1`` and nothing compiled yet.
    """
    if library == "cpu":
        for package in CPU:
            load(package)
        return
    path = _artifact(_describe(library))
    load_library: Callable[[str], None] = torch.ops.load_library  # which torch does not annotate
    try:
        load_library(str(path))
    except OSError as error:
        raise BuildError(f"{path} does not load: {error}; delete its folder to build it again") from None


@functools.cache
def arrays() -> ModuleType:
    """The pybind11 module of the NumPy face, compiled at need. Raises :class:`BuildError` as :func:`load` does."""
    path = _artifact(_describe("arrays"))
    spec = importlib.util.spec_from_file_location("fusion_arrays", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def compile_all() -> dict[str, str]:
    """Compiles every library ahead of time (``fusion build``): for each its path, or why there is none."""
    outcome = {}
    for kind in (*CPU, "arrays", "cuda"):
        try:
            outcome[kind] = str(_artifact(_describe(kind)))
        except BuildError as error:
            outcome[kind] = f"not built: {error}"
    return outcome


@functools.cache
def _describe(kind: str) -> Library:
    try:
        if kind in CPU:
            return _cpu_library(kind)
        return {"arrays": _arrays_library, "cuda": _cuda_library}[kind]()
    except toolchain.ToolchainError as error:
        raise BuildError(str(error)) from None


_CXX_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-fast-math",  # which CXXFLAGS may hold: NaN has to stay NaN
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",  # nobody reads the exception flags, and with them comparisons do not vectorise
    "-fPIC",
    "-fopenmp",
    "-Wall",
)
_BINDING = "-O1"  # nothing but calls: what would be optimised is templates of torch's and pybind11's
# The stable C ABI of torch 2.10: compiles in a second, and the binary outlives torch's own updates.
_TORCH_FLAGS = ("-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{Path(torch.__file__).parent / 'include'}")
_TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"


def _cpu_library(package: str) -> Library:
    compiler = toolchain.cxx()
    command = (compiler, *toolchain.flags("CPPFLAGS", "CXXFLAGS"), *_CXX_FLAGS, f"-I{CSRC}")
    # torch ships a libgomp of its own; linked by the same name, so that one pool of threads serves both.
    link = (
        compiler,
        "-shared",
        *toolchain.flags("LDFLAGS"),
        f"-L{_TORCH_LIBRARIES}",
        "-ltorch_cpu",
        "-ltorch",
        "-lc10",
        "-fopenmp",
        "-ldl",
    )
    return Library(
        name=f"fusion_{package}",
        title=f"{package} kernels for CPUs",
        sources=(CSRC / "bindings" / f"{package}.cpp", *sorted((CSRC / "cpu").glob(f"{package}*.cpp"))),
        compile={"cpu": command, "bindings": (*command, *_TORCH_FLAGS, _BINDING)},
        link=link,
        identity=toolchain.version(compiler) + toolchain.cpu_identity(),
    )


def _arrays_library() -> Library:
    import pybind11

    compiler = toolchain.cxx()
    command = (compiler, *toolchain.flags("CPPFLAGS", "CXXFLAGS"), *_CXX_FLAGS, f"-I{CSRC}")
    headers = f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"
    return Library(
        name="fusion_arrays",
        title="NumPy functions",
        sources=(CSRC / "bindings" / "arrays.cpp", *sorted((CSRC / "cpu").glob("quantize*.cpp"))),
        compile={"cpu": command, "bindings": (*command, *headers, _BINDING)},
        link=(compiler, "-shared", *toolchain.flags("LDFLAGS"), "-fopenmp", "-ldl"),
        identity=toolchain.version(compiler) + toolchain.cpu_identity() + sys.version,
    )


def _cuda_library() -> Library:
    if not torch.version.cuda:
        raise BuildError(f"torch {torch.__version__} has no CUDA; install a CUDA build of torch")
    compiler, toolkit = toolchain.nvcc()
    gencode = []
    for architecture in toolchain.cuda_architectures():
        number = architecture.removesuffix("+PTX").replace(".", "")
        gencode.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if architecture.endswith("+PTX"):
            gencode.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    flags = ("-std=c++17", "-O3", "-Xcompiler=-fPIC", "-DUSE_CUDA", *gencode, f"-I{toolkit / 'include'}")
    flags = (*toolchain.host_compiler(), *flags)
    libraries = [f"-L{toolkit / d}" for d in ("lib64", "lib", "targets/x86_64-linux/lib") if (toolkit / d).is_dir()]
    return Library(
        name="fusion_cuda",
        title="CUDA kernels",
        sources=tuple(sorted((CSRC / "cuda").glob("*.cu"))),
        compile={"cuda": (compiler, *flags, *_TORCH_FLAGS, f"-I{CSRC}")},
        link=(
            *(toolchain.cxx(), "-shared", *toolchain.flags("LDFLAGS"), f"-L{_TORCH_LIBRARIES}", *libraries),
            *("-ltorch_cuda", "-ltorch_cpu", "-ltorch", "-lc10", "-lcudart"),
        ),
        identity=toolchain.version(compiler) + "".join(os.environ.get(v, "") for v in toolchain.NVCC_FLAGS),
    )


def _artifact(library: Library) -> Path:
    try:
        folder = cache_folder()
        if (path := folder / library.key / f"{library.name}.so").is_file():
            return path
        if os.environ.get("FUSION_DISABLE_JIT") == "1":
            raise BuildError(f"{library.title} are not compiled yet and FUSION_DISABLE_JIT=1; run `fusion build`")
        if fcntl is None:
            raise BuildError("compiling on the fly needs a POSIX system")
    except OSError as error:
        raise BuildError(f"there is no folder for compiled libraries ({error}); set FUSION_CACHE_DIR") from None
    try:
        return _built_in(folder, library)
    except OSError as error:
        reason = f"cannot write the cache folder {folder} ({error.strerror or error})"
        if os.environ.get("FUSION_CACHE_DIR"):
            raise BuildError(f"{reason}; set FUSION_CACHE_DIR to one that can be written") from None
    try:
        other = temporary_folder()
        path = other / library.key / f"{library.name}.so"
        if not path.is_file():
            _say(f"{reason}; compiling into {other}, which may not last: set FUSION_CACHE_DIR to a folder that does")
            path = _built_in(other, library)
        return path
    except OSError as error:
        raise BuildError(
            f"{reason}, nor one for temporary files ({error.strerror or error}); set FUSION_CACHE_DIR to one that can "
            "be written"
        ) from None


def _built_in(folder: Path, library: Library) -> Path:
    """The library below ``folder``, compiled if need be. Raises OSError where that cannot be written."""
    path = folder / library.key / f"{library.name}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)  # whatever the umask, not for others to write
    with _locked(folder / f"{library.key}.lock"):
        if not path.is_file():  # another process may have built it while we waited
            _sweep(folder)
            _build(library, path)
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as file:
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
        done = subprocess.run(
            command + ["-v"] * verbose,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",  # a compiler's words in a locale of its own
            env=os.environ | {"TMPDIR": str(workplace)},  # the user's may be missing, and is not swept
        )
        if done.returncode != 0:
            if full := re.search(r"No space left on device|Disk quota exceeded", done.stdout):
                raise OSError(errno.ENOSPC, full.group())
            raise BuildError(f"compiling the {library.title} failed:\n{done.stdout[-4000:]}")
        if verbose:
            _say(done.stdout)
        path.parent.mkdir(exist_ok=True, mode=0o755)
        (workplace / path.name).chmod(0o755)
        os.replace(workplace / path.name, path)
    except toolchain.ToolchainError as error:
        raise BuildError(str(error)) from None
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    _say(f"compiled the {library.title} in {time.monotonic() - started:.1f} s (once; kept in {path.parent})")


def _say(line: str) -> None:
    print(f"fusion: {line}", file=sys.stderr, flush=True)
