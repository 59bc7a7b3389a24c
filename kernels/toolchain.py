"""Where the compilers really are, and what to compile for.

Nothing here trusts a PATH alone: nvcc is often a wrapper far from its toolkit, and a pip-installed ninja is
not on the PATH of a virtual environment that nobody activated.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import torch

__all__ = [
    "ToolchainError",
    "cpu_identity",
    "cpu_level",
    "cuda_architectures",
    "cxx",
    "flags",
    "host_compiler",
    "ninja",
    "nvcc",
    "version",
]


class ToolchainError(RuntimeError):
    """A tool that compiling needs is missing or does not fit; the message says which and what to do."""


def cxx() -> str:
    """The C++ compiler, ``$CXX``, else g++, else clang++: its path and what else ``CXX`` says, as a shell reads them.

    ``CXX`` may be a path, with spaces or not, or a command such as ``ccache g++`` or ``g++ -m64``.
    """
    return shlex.join(_compiler())


def _compiler() -> list[str]:
    asked = os.environ.get("CXX", "").strip()
    for name in [asked] if asked else ["g++", "clang++"]:
        if path := shutil.which(name):  # a path with spaces is one word
            return [path]
        try:
            program, *rest = shlex.split(name)
        except ValueError as error:
            raise ToolchainError(f"$CXX={asked} is not a command: {error}; mend its quotes") from None
        if rest and (path := shutil.which(program)):
            return [path, *rest]
    looked = f"$CXX={asked}" if asked else "g++, clang++"
    raise ToolchainError(f"no C++ compiler found (looked for {looked}); install g++ or set CXX")


def flags(*variables: str) -> tuple[str, ...]:
    """The words of environment variables such as ``CXXFLAGS``, by which conda's compilers find their libraries."""
    words: list[str] = []
    for variable in variables:
        try:
            words += shlex.split(os.environ.get(variable, ""))
        except ValueError as error:
            given = os.environ[variable]
            raise ToolchainError(f"${variable}={given} is not a command line: {error}; mend its quotes") from None
    return tuple(words)


NVCC_FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")  # which nvcc itself reads


def host_compiler() -> tuple[str, ...]:
    """nvcc's option for the C++ compiler it calls: ``CUDAHOSTCXX``, or that of ``CXX`` without a launcher.

    Without either, and where nvcc's own variables name one, nvcc finds it by itself.
    """
    if any("-ccbin" in word or "--compiler-bindir" in word for word in flags(*NVCC_FLAGS)):
        return ()
    asked = os.environ.get("CUDAHOSTCXX", "").strip()
    if asked:
        if path := shutil.which(asked):
            return (f"-ccbin={path}",)
        raise ToolchainError(f"$CUDAHOSTCXX={asked} is no compiler; give its path or unset it")
    if not os.environ.get("CXX", "").strip():
        return ()
    words = [w for w in _compiler() if not w.startswith("-") and Path(w).name not in _LAUNCHERS]
    return (f"-ccbin={shutil.which(words[0]) or words[0]}",) if words else ()


_LAUNCHERS = ("ccache", "sccache", "distcc", "icecc", "env")


def ninja() -> str:
    """Path of ninja: the one of the Python package first, then the PATH."""
    try:
        import ninja as package

        candidate = Path(package.BIN_DIR) / "ninja"
        if candidate.is_file():
            return str(candidate)
    except ImportError:
        pass
    beside = Path(sysconfig.get_path("scripts")) / "ninja"
    path = str(beside) if beside.is_file() else shutil.which("ninja")
    if path is None:
        raise ToolchainError("ninja not found; `pip install ninja`")
    return path


def nvcc() -> tuple[str, Path]:
    """nvcc, as a shell reads its path, and a toolkit that has headers and the runtime library.

    Raises:
        ToolchainError: there is none, or its major version is not that of torch.
    """
    toolkit = _cuda_toolkit()
    compiler = toolkit / "bin" / "nvcc"
    ours = torch.version.cuda
    found = re.search(r"release (\d+)\.(\d+)", version(shlex.quote(str(compiler))))
    if ours and found and found.group(1) != ours.partition(".")[0]:
        raise ToolchainError(
            f"torch was built for CUDA {ours} but {compiler} is CUDA {found.group(1)}.{found.group(2)}. "
            f"The major versions must agree: install a CUDA {ours.partition('.')[0]} toolkit and point CUDA_HOME "
            "at it, or install a torch built for the toolkit at hand. The Triton kernels need neither."
        )
    return shlex.quote(str(compiler)), toolkit


def _cuda_toolkit() -> Path:
    candidates = [Path(os.environ[v]) for v in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(v)]
    if found := shutil.which("nvcc"):
        candidates += list(Path(found).resolve().parents)[1:3]
    candidates += [Path("/usr/local/cuda"), Path(sysconfig.get_path("purelib")) / "nvidia" / "cu13"]
    for root in candidates:
        has_headers = any((root / d / "cuda_runtime.h").is_file() for d in ("include", "targets/x86_64-linux/include"))
        if (root / "bin" / "nvcc").is_file() and has_headers and _runtime_library(root):
            return root
    raise ToolchainError(
        "no CUDA toolkit found (a folder with bin/nvcc, include/cuda_runtime.h and lib*/libcudart*; looked in "
        + ", ".join(map(str, candidates))
        + "); set CUDA_HOME"
    )


def _runtime_library(root: Path) -> bool:
    return any(any((root / d).glob("libcudart*")) for d in ("lib64", "lib", "targets/x86_64-linux/lib"))


def cuda_architectures() -> list[str]:
    """Architectures as ``"8.6"``, ``"9.0a"`` or ``"8.6+PTX"``: from ``FUSION_CUDA_ARCH``, ``TORCH_CUDA_ARCH_LIST``,
    the visible GPUs, or sm_86 with PTX."""
    asked = os.environ.get("FUSION_CUDA_ARCH") or os.environ.get("TORCH_CUDA_ARCH_LIST")
    if asked:
        return re.split(r"[;,\s]+", asked.strip())
    if torch.cuda.is_available():
        capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        return sorted(f"{major}.{minor}" for major, minor in capabilities)
    return ["8.6+PTX"]


@functools.cache
def version(compiler: str) -> str:
    """What ``compiler --version`` says, of a compiler as :func:`cxx` gives it."""
    command = [*shlex.split(compiler), "--version"]
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ToolchainError(f"{compiler} --version failed: {error}") from None


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def cpu_identity() -> str:
    """Changes when code compiled with ``-march=native`` would: a cache on a shared disk serves many machines."""
    flags = " ".join(sorted(_cpu_flags())) or platform.processor()
    return f"{platform.system()} {platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"


def cpu_level() -> str:
    """What the vectorised CPU code will use here, for people: ``"AVX-512 with bf16"``, ``"AVX2"``, ``"portable"``."""
    flags = _cpu_flags()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
        return "AVX-512" + (" with bf16" if "avx512_bf16" in flags else "")
    return "AVX2" if {"avx2", "fma"} <= flags else "portable"
