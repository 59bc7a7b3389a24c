"""The CUDA sources compile against the headers of every torch that is supported, not only of the one installed.

Headers come out of torch's wheel for macOS, the smallest (80 MB; they are the same on every system), and are kept in
the user's cache folder.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from fusion.kernels import build, toolchain

SOURCES = sorted((build.CSRC / "cuda").glob("*.cu"))
VERSIONS = ("2.10.0", "2.11.0", "2.13.0")
GPUS = (80, 86, 90)
WHEEL = ("--platform=macosx_15_0_arm64", "--python-version=3.12", "--implementation=cp", "--only-binary=:all:")


def headers(version: str, work: Path) -> Path:
    """The folder of torch's headers, downloaded at need."""
    folder = build.cache_folder() / "headers" / f"torch-{version}"
    if folder.is_dir():
        return folder
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        *WHEEL,
        "--dest",
        str(work),
        f"torch=={version}",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"torch {version} cannot be downloaded: {done.stderr.strip()[-300:]}")
    wheel = zipfile.ZipFile(next(work.glob("torch-*.whl")))
    unpacked = work / "unpacked"
    wheel.extractall(unpacked, [name for name in wheel.namelist() if name.startswith("torch/include/")])
    folder.parent.mkdir(parents=True, exist_ok=True)
    (unpacked / "torch" / "include").rename(folder)
    return folder


@pytest.mark.extra
@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
@pytest.mark.parametrize("version", VERSIONS)
def test_cuda_sources_compile(version: str, source: Path, tmp_path: Path) -> None:
    try:
        compiler, toolkit = toolchain.nvcc()
    except toolchain.ToolchainError as error:
        pytest.skip(str(error))
    command = [
        *(compiler, "-std=c++17", "-O3", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-Xptxas=-v"),
        *(f"-I{headers(version, tmp_path)}", f"-I{build.CSRC}", f"-I{toolkit / 'include'}"),
        *(f"-gencode=arch=compute_{gpu},code=sm_{gpu}" for gpu in GPUS),
        *("-c", str(source), "-o", str(tmp_path / "object.o")),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert not any(int(spill) for spill in re.findall(r"(\d+) bytes spill", done.stderr))
