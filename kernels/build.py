"""Compiles ``csrc`` on first use, once for each torch, compiler, Python, CPU and GPU; on a CPU a library for each
package of operators, so that one of them is there in seconds.

``FUSION_SANITIZE=address,undefined`` compiles the CPU code with these sanitizers of the compiler: an access outside of
an array, or arithmetic that C++ does not define, then ends the process and says where. Python has to be started with
their runtime library preloaded, as ``make sanitize`` does.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch

from . import toolchain
from .artifact import CSRC, BuildError, Library, artifact
from .cache import cache_folder

__all__ = ["CPU", "BuildError", "arrays", "cache_folder", "compile_all", "load"]

CPU = ("attention", "convolution", "infonce", "pooling", "quantize")  # packages of operators that have C++
_IMPLEMENTED = re.compile(r'm\.impl\("(\w+)"')


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
    described = _describe(library)
    if why := _not_loaded(artifact(described), described):
        path = artifact(described, again=True)
        other = path.with_name(f"{path.stem}-{os.getpid()}.so")  # by the same name a loader gives what it has already
        shutil.copy(path, other)
        try:
            if why := _not_loaded(other, described):
                raise BuildError(f"{path} does not load: {why}")
        finally:
            other.unlink(missing_ok=True)


def _not_loaded(path: Path, library: Library) -> str | None:
    """Loads it; why not all of its operators are there then, or None."""
    load_library: Callable[[str], None] = torch.ops.load_library  # which torch does not annotate
    try:
        load_library(str(path))
    except OSError as error:
        return str(error)
    key = "CUDA" if library.name == "fusion_cuda" else "CPU"
    implemented = torch._C._dispatch_has_kernel_for_dispatch_key
    names = [name for source in library.sources for name in _IMPLEMENTED.findall(source.read_text())]
    missing = [name for name in names if not implemented(f"fusion::{name}", key)]
    return f"it lacks {', '.join(missing)}" if missing else None


@functools.cache
def arrays() -> ModuleType:
    """The pybind11 module of the NumPy face, compiled at need. Raises :class:`BuildError` as :func:`load` does."""
    try:
        return _module(artifact(_describe("arrays")))
    except ImportError:
        path = artifact(_describe("arrays"), again=True)
    try:
        return _module(path)
    except ImportError as error:
        raise BuildError(f"{path} does not load: {error}") from None


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("fusion_arrays", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


def compile_all() -> dict[str, str]:
    """Compiles every library ahead of time (``fusion build``): for each its path, or why there is none."""
    outcome = {}
    for kind in (*CPU, "arrays", "cuda"):
        try:
            outcome[kind] = str(artifact(_describe(kind)))
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
_SANITIZERS = ("address", "undefined", "thread")


def _sanitize() -> tuple[str, ...]:
    """Options of compiler and linker for the sanitizers that ``FUSION_SANITIZE`` names, after which -O3 is -O1.

    Raises:
        BuildError: it names something else.
    """
    asked = os.environ.get("FUSION_SANITIZE", "")
    if not asked:
        return ()
    names = [name.strip() for name in asked.split(",")]
    if unknown := [name for name in names if name not in _SANITIZERS]:
        raise BuildError(
            f"FUSION_SANITIZE={asked}: {unknown[0]!r} is no sanitizer; give {', '.join(_SANITIZERS)}, or several with "
            "commas between them, or unset it"
        )
    if "undefined" in names:
        names.append("float-cast-overflow")  # undefined, but left out of what the compiler calls so
    # Without frame pointers reports have no stack; what recovers is only printed. The assertions find what is outside
    # of a std::vector but inside of the memory it has in reserve.
    kept = ("-fno-omit-frame-pointer", "-g", "-O1", "-fno-sanitize-recover=undefined,float-cast-overflow")
    return (f"-fsanitize={','.join(names)}", *kept, "-D_GLIBCXX_ASSERTIONS")


def _cpu_command(compiler: str) -> tuple[str, ...]:
    return (compiler, *toolchain.flags("CPPFLAGS", "CXXFLAGS"), *_CXX_FLAGS, *_sanitize(), f"-I{CSRC}")


def _cpu_library(package: str) -> Library:
    compiler = toolchain.cxx()
    command = _cpu_command(compiler)
    # torch ships a libgomp of its own; linked by the same name, so that one pool of threads serves both.
    link = (
        compiler,
        "-shared",
        *toolchain.flags("LDFLAGS"),
        *_sanitize(),
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
    command = _cpu_command(compiler)
    headers = f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"
    return Library(
        name="fusion_arrays",
        title="NumPy functions",
        sources=(CSRC / "bindings" / "arrays.cpp", *sorted((CSRC / "cpu").glob("quantize*.cpp"))),
        compile={"cpu": command, "bindings": (*command, *headers, _BINDING)},
        link=(compiler, "-shared", *toolchain.flags("LDFLAGS"), *_sanitize(), "-fopenmp", "-ldl"),
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
