"""What a wheel carries, and what importing the op library costs."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    """Names of the files that git tracks, as they are in the working tree."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the files in a wheel built from a copy of the tracked sources."""
    work = tmp_path_factory.mktemp("wheel")
    for name in tracked:
        if not name.startswith(("tests/", "benchmarks/results/")):
            (work / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            (work / "src" / name).write_bytes((REPOSITORY / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(work), str(work / "src")], check=True, capture_output=True)
    return zipfile.ZipFile(next(work.glob("*.whl"))).namelist()


def test_everything_lies_under_fusion(wheel: list[str]) -> None:
    """A top-level `kernels` would overwrite Hugging Face's package of that name."""
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"fusion", "eo_fusion"}


def test_sources_presets_and_every_module_are_in_it(wheel: list[str], tracked: list[str]) -> None:
    for name in tracked:
        if name.startswith(("kernels/", "csrc/", "fusion/")):
            expected = name if name.startswith("fusion/") else f"fusion/{name}"
            assert expected in wheel, f"{name} is missing: list its package in pyproject.toml"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_op_library_needs_only_torch_numpy_and_einops() -> None:
    program = """
import sys, torch, numpy, einops
before = set(sys.modules)
import fusion.kernels
print(" ".join(sorted({m.split(".")[0] for m in set(sys.modules) - before})))
"""
    imported = {name for name in run(program).split() if not name.startswith("__editable__")}
    assert imported <= {"fusion", "torch", "numpy", "einops", *sys.stdlib_module_names}


def test_it_adds_little_to_the_import_of_torch() -> None:
    program = """
import time, torch, numpy, einops
start = time.process_time()
import fusion.kernels
print(time.process_time() - start)
"""
    assert min(float(run(program)) for _ in range(3)) < 0.2
