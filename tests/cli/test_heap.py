"""Commands keep memory that they free."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from fusion.heap import keep_freed_memory

ASKED = "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"
# Eight blocks of 16 MiB, filled and freed three times: how many pages the system gave in the last round.
PROGRAM = """
import ctypes, resource
from fusion.heap import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
{keep}
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [libc.malloc(16 << 20) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, 16 << 20)
    for block in blocks:
        libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(keep: str) -> int:
    # Dask leaves a threshold of its own in the environment of whoever started a cluster.
    clean = {k: v for k, v in os.environ.items() if k not in ASKED}
    command = [sys.executable, "-c", PROGRAM.format(keep=keep)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_pages_are_not_given_back() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):  # another C library, which has no such thing to ask for
        assert not keep_freed_memory({})
        return
    assert pages("assert keep_freed_memory()") < 100
    assert pages("") > 10_000


@pytest.mark.parametrize("name", ASKED)
def test_what_the_environment_says_stays(name: str) -> None:
    assert keep_freed_memory({name: "1"}) is False


def test_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert keep_freed_memory({}) is False
