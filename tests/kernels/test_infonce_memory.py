"""The N x N matrix is never formed, on the CPU in any backend."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusion.kernels import backends

SCRIPT = """
import ctypes, re, sys, torch
from fusion.kernels import patch_info_nce, use_backend

def resident(field):
    return int(re.search(field + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

torch.set_num_threads(1)
with use_backend(sys.argv[1]):
    patch_info_nce(torch.randn(3, 2, 36, 16, requires_grad=True), exclude=sys.argv[2]).backward()
    tokens = torch.randn(3, 64, 36, 16, requires_grad=True)
    ctypes.CDLL(None).malloc_trim(0)
    open("/proc/self/clear_refs", "w").write("5")
    before = resident("VmRSS")
    patch_info_nce(tokens, exclude=sys.argv[2], return_accuracy=True)[0].backward()
    print(resident("VmHWM") - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("exclude", ["tile", "place"])
@pytest.mark.parametrize("backend", ["cpp", "eager"])
def test_memory_stays_below_a_third_of_the_matrix(backend: str, exclude: str) -> None:
    states = {row["backend"]: row for row in backends() if row["op"] == "patch_info_nce_forward"}
    if states[backend]["available"] != "yes":
        pytest.skip(states[backend]["reason"])
    command = [sys.executable, "-c", SCRIPT, backend, exclude]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 60  # MiB; 6912 x 6912 float32 are 182
