"""A sweep's candidate is what a launch takes, and the table is as before when it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
# Launches are recorded instead of made, on tensors of a CPU.
PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from benchmarks.host_time import Launches
from benchmarks.gpu.tiles import sweeps
from triton.runtime.jit import JITFunction
import re

launched = []
with Launches():
    JITFunction.run = lambda kernel, *args, **options: launched.append((kernel.__name__, options))
    for sweep in sweeps(tiny=False):
        step, table = sweep.build(), dict(sweep.table)
        for warps in (1, 16):
            with sweep.trying(replace(sweep.now(), warps=warps)):
                launched.clear()
                step()
            of_kernel = [options for name, options in launched if re.search(sweep.kernel, name)]
            assert of_kernel, (sweep.name, sweep.key, [name for name, _ in launched])
            assert {options["num_warps"] for options in of_kernel} == {warps}, (sweep.name, of_kernel)
        assert sweep.table == table
        print(sweep.name)
"""


@pytest.mark.extra
def test_candidates_are_launched() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {"infonce", "attention, closed form", "attention, looked up", "nearest"}
