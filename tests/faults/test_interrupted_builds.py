"""Compiling that is killed at random moments, and libraries whose bytes change, end with a library that works."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KILLS, FLIPS = 6, 4
PROGRAM = (
    "import torch; from fusion.kernels import nearest_code, use_backend\n"
    "with use_backend('cpp'): found = nearest_code(torch.eye(8)[:5], torch.eye(8))\n"
    "assert found.tolist() == [0, 1, 2, 3, 4], found"
)


def start(cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"FUSION_CACHE_DIR": str(cache)}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def works(cache: Path) -> bool:
    process = start(cache)
    said, _ = process.communicate(timeout=300)
    return process.returncode == 0 and "Traceback" not in said


@pytest.mark.extra
def test_a_library_works_whatever_became_of_its_build(tmp_path, tally):
    started = time.perf_counter()
    assert works(tmp_path / "whole")
    seconds, draw, survived = time.perf_counter() - started, random.Random(0), 0
    for number in range(KILLS):
        cache = tmp_path / str(number)
        process = start(cache)
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        if draw.random() < 0.5:
            os.killpg(process.pid, signal.SIGKILL)  # with its compilers
        else:
            process.kill()
        process.communicate()
        survived += works(cache)
    tally("stopped: compiling", KILLS, survived)
    assert survived == KILLS
    (library,) = (tmp_path / "whole").rglob("*.so")
    survived = 0
    for _ in range(FLIPS):
        content = bytearray(library.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        library.write_bytes(content if draw.random() < 0.5 else content[: draw.randrange(len(content))])
        survived += works(tmp_path / "whole") and library.read_bytes() != bytes(content)
    tally("bit flips: compiled libraries", FLIPS, survived)
    assert survived == FLIPS
