"""tests/gpu, in as many processes as there are CPUs to compile kernels: first as this GPU runs them, then with the
tiles of the others."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import torch

from .checkout import ROOT
from .child import Child

__all__ = ["TESTS", "run_tests"]

TESTS = ROOT / "tests" / "gpu"
# Attention has one row of tiles, and InfoNCE's tests run both.
OTHERS = "nearest and triton"


def run_tests(child: Child, run: str, *options: str, **variables: str) -> None:
    """pytest over tests/gpu until the deadline; ``run`` names this one in the rows."""
    common = [
        "-q",
        "--continue-on-collection-errors",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.gpu.reporting",
        "--tb=short",
        "--no-header",
        *options,
    ]
    environment = {**os.environ, **variables, "FUSION_TEST_ROWS": str(child.rows.path), "FUSION_TEST_RUN": run}
    workers = max(1, min(12, (os.cpu_count() or 2) - 4))
    if child.dry:
        commands = [[*common, str(TESTS)]]
    elif importlib.util.find_spec("xdist"):
        commands = [[*common, "-n", str(workers), "--dist", "load", str(TESTS)]]
    else:
        commands = [[*common, str(file)] for file in sorted(TESTS.glob("test_*.py"))]
    running = [
        subprocess.Popen([sys.executable, "-m", "pytest", *command], cwd=ROOT, env=environment) for command in commands
    ]
    for process in running:
        try:
            process.wait(timeout=max(1.0, child.left()))
        except subprocess.TimeoutExpired:
            process.kill()


def main() -> None:
    child = Child.of_command_line()
    run_tests(child, "own tiles")
    if not torch.cuda.is_available():
        return
    from fusion.kernels._triton.device import architecture, tiles_of

    if tiles_of(architecture(torch.device("cuda", 0))) != 86 and child.left() > 10:
        options = "-p", "benchmarks.gpu.other_tiles", "-k", OTHERS
        run_tests(child, "tiles of sm_86", *options, FUSION_TILES_OF="86")


if __name__ == "__main__":
    main()
