"""What machine this is, what runs on it, and how fast it can be: rates that shares are measured against."""

from __future__ import annotations

import platform
import subprocess
import threading
import time
from typing import Any

import torch

from fusion.kernels import backends, build

from ..harness import conditions
from .child import Child
from .measure import quantiles, times

SIDE = 8192


def main() -> None:
    child = Child.of_command_line()
    child.rows.add(conditions=conditions() | {"python": platform.python_version(), "cuda": torch.version.cuda})
    if torch.cuda.is_available():
        child.rows.add(gpu=_gpu())
    if child.dry:
        child.rows.add(rate="float32", flops=_product(64, torch.float32))
        child.rows.add(rate="copy", bytes=_copy(64))
        return
    builds = [threading.Thread(target=_build, args=(child, kind)) for kind in ("cuda", "cpu")]
    for thread in builds:
        thread.start()  # compilers take CPUs; what follows takes the GPU
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        child.rows.add(rate=str(dtype).removeprefix("torch."), flops=_product(SIDE, dtype))
    child.rows.add(rate="copy", bytes=_copy(SIDE))
    for thread in builds:
        thread.join()
    child.rows.add(backends=backends())


def _gpu() -> dict[str, Any]:
    gpu = torch.cuda.get_device_properties(0)
    return {
        **{"name": gpu.name, "capability": [gpu.major, gpu.minor], "memory": gpu.total_memory},
        **{"multiprocessors": gpu.multi_processor_count, "shared_memory": gpu.shared_memory_per_block_optin},
        "clocks": _clocks(),
    }


def _clocks() -> str:
    query = ["nvidia-smi", "--query-gpu=clocks.max.sm,clocks.sm,power.limit,ecc.mode.current", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.splitlines()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return ""


def _build(child: Child, kind: str) -> None:
    began = time.monotonic()
    try:
        build.load(kind)
        outcome = "loaded"
    except build.BuildError as error:
        outcome = f"not built: {error}"
    child.rows.add(build=kind, outcome=outcome, seconds=round(time.monotonic() - began, 1))


def _product(side: int, dtype: torch.dtype) -> float:
    """FLOP/s of a square product of random numbers (zeros would run at a higher clock)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    return 2 * side**3 / quantiles(times(lambda: a @ b, 0.3))["median_ms"] * 1e3


def _copy(side: int) -> float:
    """Bytes read and written a second."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = torch.randn(4 * side, side, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / quantiles(times(lambda: target.copy_(source), 0.1))["median_ms"] * 1e3


if __name__ == "__main__":
    main()
