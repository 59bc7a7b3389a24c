"""Runs a test file again in a process whose Triton interprets, which it decides when it is imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fusion.kernels._triton.device import interpreting

__all__ = ["interpreting", "run_interpreted"]

pytest.importorskip("triton")  # skips the file that imports this one


def run_interpreted(file: str) -> None:
    """Fails with what pytest prints where a test of ``file`` fails in the interpreter."""
    settings = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FUSION_BACKEND": "auto"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", file, "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
