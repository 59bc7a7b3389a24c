"""Candidate tiles against the tables': compiled by many processes at once, then timed alone, by kernel.

``FUSION_SWEEP_WORKER=i/n`` makes the process one of those that compile: every n-th candidate from the i-th on. They
leave what they compiled in Triton's cache and say so in rows; this process times those.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import subprocess
import sys
import time
from itertools import zip_longest
from typing import Any

import torch

from .checkout import ROOT
from .child import Child
from .measure import kernels
from .rows import read
from .tiles import Sweep, Tile, sweeps

COMPILING = 0.55  # share of the time that may go into compiling


def candidates(tiny: bool) -> list[tuple[Sweep, Tile]]:
    """The table's tile of every sweep, then the first candidate of every sweep, and so on."""
    by_sweep = [[(sweep, tile) for tile in sweep.tiles()] for sweep in sweeps(tiny)]
    every = [pair for row in zip_longest(*by_sweep) for pair in row if pair is not None]
    return every[:4] if tiny else every


def identity(sweep: Sweep, tile: Tile) -> dict[str, Any]:
    return {"table": sweep.name, "key": f"{sweep.key}, {sweep.case}", "tile": _text(tile), "now": tile == sweep.now()}


def _text(tile: Tile) -> str:
    numbers = tile.rows, tile.columns, tile.warps, tile.stages, *([tile.depth] if tile.depth else [])
    return str(numbers)


def compile_some(child: Child, worker: str) -> None:
    first, step = map(int, worker.split("/"))
    for number, (sweep, tile) in list(enumerate(candidates(child.dry)))[first::step]:
        if child.left() < 0:
            return
        try:
            with sweep.trying(tile):
                sweep.build()()
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
            child.rows.add(compiled=number)
        except Exception as error:  # most often: more shared memory than there is
            child.rows.add(compiled=number, failed=f"{type(error).__name__}: {error}".splitlines()[0][:200])
            if "CUDA error" in str(error):
                raise


def main() -> None:
    child = Child.of_command_line()
    if worker := os.environ.get("FUSION_SWEEP_WORKER"):
        compile_some(child, worker)
        return
    known = read(child.rows.path)
    if not any("compiled" in row for row in known):
        _compile_all(child)
        known = read(child.rows.path)
    outcomes = {row["compiled"]: row.get("failed") for row in known if "compiled" in row}
    ended = {row["number"] for row in known if "number" in row}
    for number, (sweep, tile) in enumerate(candidates(child.dry)):
        if number in ended or number not in outcomes:
            continue
        if child.left() < 1:
            break
        row: dict[str, Any] = {"number": number, **identity(sweep, tile)}
        if outcomes[number]:
            child.rows.add(**row, failed=outcomes[number])
            continue
        child.rows.add(number=number, begun=True)
        child.rows.add(**row, **_time(sweep, tile))


def _compile_all(child: Child) -> None:
    workers = 1 if child.dry else max(1, (os.cpu_count() or 2) - 1)
    running = []
    for i in range(workers):
        environment = {**os.environ, "FUSION_SWEEP_WORKER": f"{i}/{workers}"}
        command = [sys.executable, "-m", "benchmarks.gpu.sweep", *sys.argv[1:]]
        running.append(subprocess.Popen(command, cwd=ROOT, env=environment))
    until = time.monotonic() + COMPILING * child.left()
    for process in running:
        try:
            process.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()


_built: list[Any] = [None, None]  # the step of the last sweep


def _time(sweep: Sweep, tile: Tile) -> dict[str, Any]:
    """Microseconds of the sweep's kernels in one step, and their names."""
    try:
        with sweep.trying(tile):
            if _built[0] != (sweep.name, sweep.case, sweep.kernel):
                _built[:] = None, None
                gc.collect()
                _built[:] = (sweep.name, sweep.case, sweep.kernel), sweep.build()
            if not torch.cuda.is_available():
                _built[1]()
                return {"interpreted": True}
            found = {k: t for k, t in kernels(_built[1]).items() if re.search(sweep.kernel, k)}
    except Exception as error:
        if "CUDA error" in str(error):
            raise  # this process is lost; the next one goes on behind it
        return {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    if not found:
        return {"failed": f"no kernel {sweep.kernel} ran"}
    return {"microseconds": sum(found.values())}


if __name__ == "__main__":
    main()
