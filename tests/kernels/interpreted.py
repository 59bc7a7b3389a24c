"""Runs a test file again in a process whose Triton interprets, which it decides when it is imported.

Interpreting takes minutes: `make test` takes every case in one dtype, by turns, `make test-all` in every dtype.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
import torch

from fusion.kernels._triton.device import interpreting

__all__ = ["by_turns", "interpreting", "run_interpreted", "with_extra"]

pytest.importorskip("triton")  # skips the file that imports this one


def run_interpreted(file: str, config: pytest.Config) -> None:
    """Fails with what pytest prints where a test of ``file`` fails in the interpreter, with the marks chosen for it."""
    settings = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "FUSION_BACKEND": "auto"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", file, "-p", "no:cacheprovider", "-m", config.option.markexpr]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def by_turns(cases: Iterable[str], dtypes: Sequence[torch.dtype]) -> list[Any]:
    """Parameters (case, dtype): each case in each dtype, those that are not its turn marked `extra`."""
    return [
        pytest.param(case, dtype, id=f"{case}-{dtype}", marks=() if turn == number % len(dtypes) else pytest.mark.extra)
        for number, case in enumerate(cases)
        for turn, dtype in enumerate(dtypes)
    ]


def with_extra(cases: Iterable[str], others: Iterable[str]) -> list[Any]:
    """Parameters: ``cases`` and, marked `extra`, ``others``."""
    return [*cases, *(pytest.param(case, marks=pytest.mark.extra) for case in others)]
