"""Measures an operation and its peers under the same conditions, and keeps the numbers.

One call of :func:`compare` is one case (shape, dtype, pass): every contender runs in turn, round after round, in one
process, so that whatever else the machine does hits all alike. Times are medians with the 20th and 80th percentile;
``ratio`` is the peer's median over ours. Peak memory is what a step needs beyond its inputs: from the allocator on a
GPU, from the resident set of a fresh process on a CPU.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import platform
import re
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from .gpu.measure import peak

__all__ = ["Build", "behind", "compare", "conditions", "device_name", "faster_peers", "save"]

RESULTS = Path(__file__).parent / "results"
_M_MMAP_THRESHOLD = -3  # of malloc.h
Step = Callable[[], Any]
# Makes a contender: inputs on the device, and the step to time. Top-level or functools.partial of such, so that a
# fresh process can make it too.
Build = Callable[[], Step]

_rows: dict[str, list[dict[str, Any]]] = {}  # by op
_faster: list[str] = []


def compare(
    benchmark: Any,
    op: str,
    case: dict[str, Any],
    contenders: dict[str, Build],
    *,
    operations: float | None = None,
    seconds: float = 2.0,
    memory: bool = True,
) -> dict[str, dict[str, Any]]:
    """Times ``contenders`` (the first is ours) on one case and records a row for each.

    Args:
        benchmark: pytest-benchmark's fixture; it times ours once more for its own table. Where benchmarks are
            disabled ours runs once and nothing is recorded.
        case: what identifies the case: shape, dtype, pass.
        operations: floating-point operations of ours, for ``tflops``.
        seconds: time to spend on each contender, beyond a warm-up and three rounds.
        memory: also measure the peak memory.
    """
    ours = next(iter(contenders))
    if benchmark.disabled:
        benchmark(contenders[ours]())
        return {}
    steps = {name: build() for name, build in contenders.items()}
    times = _times_cuda(steps) if torch.cuda.is_available() else _times_cpu(steps, seconds)
    rows = {}
    for name, measured in times.items():
        p20, median, p80 = torch.tensor(measured, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double())
        rows[name] = {"contender": name, **case, "median_ms": median.item(), "p20_ms": p20.item(), "p80_ms": p80.item()}
        if operations is not None and name == ours:
            rows[name]["tflops"] = operations / median.item() / 1e9
        if memory:
            rows[name]["peak_bytes"] = _peak(steps[name], contenders[name])
    for row in rows.values():
        row["ratio"] = row["median_ms"] / rows[ours]["median_ms"]
    _rows.setdefault(op, []).extend(rows.values())
    benchmark.extra_info.update({name: row for name, row in rows.items()})
    benchmark.pedantic(steps[ours], rounds=3, iterations=1)
    return rows


def behind(benchmark: Any, rows: dict[str, dict[str, Any]], *names: str, least: float = 1.0) -> None:
    """Notes peers that are faster here, for the end of the session: on somebody else's machine that is news and no
    failure. What is committed is held to be ahead by tests/benchmarks/test_committed.py.

    Args:
        names: of the peers that count; all without them.
        least: of their time to ours.
    """
    for name, row in rows.items():
        if row["ratio"] < least and (not names or name in names):
            _faster.append(f"{benchmark.group}: {name} takes {row['ratio']:.2f} times as long as ours")


def faster_peers() -> list[str]:
    """A line each, of this session."""
    return list(_faster)


def _times_cpu(steps: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of each round, contenders in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    while any(len(t) < 3 or (sum(t) < 1e3 * seconds and len(t) < 100) for t in times.values()):
        for name, step in steps.items():
            if len(times[name]) >= 3 and sum(times[name]) >= 1e3 * seconds:
                continue
            start = time.perf_counter()
            step()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _times_cuda(steps: dict[str, Step]) -> dict[str, list[float]]:
    from triton.testing import do_bench

    return {name: do_bench(step, warmup=50, rep=200, return_mode="all") for name, step in steps.items()}


def _peak(step: Step, build: Build) -> int:
    """Bytes a step needs beyond what was there before it."""
    if torch.cuda.is_available():
        return peak(step)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_of_process, args=(build, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the process that measures memory died, probably for want of it") from None
    finally:
        process.join()


def _peak_of_process(build: Build, sender: Any) -> None:
    libc = ctypes.CDLL(None)
    # Blocks beyond 64 KiB go back to the system when freed, so that what is resident is what is in use (glibc would
    # keep some of them, by luck more than a gigabyte).
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 16)
    step = build()
    step()  # libraries, thread pools, compilation
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (Linux)
    before = status("VmRSS")
    step()
    sender.send(max(status("VmHWM") - before, 0))


def status(field: str) -> int:
    """Bytes that this process has, by a field of Linux' ``/proc/self/status``."""
    (kilobytes,) = re.findall(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    return 1024 * int(kilobytes)


def device_name() -> str:
    """Name of the results' folder: the GPU, or the processor and its number of threads."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        models = re.findall(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.M)
        name = f"{models[0] if models else platform.processor()} {torch.get_num_threads()} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower().replace("(r)", "")).strip("-")


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def conditions() -> dict[str, Any]:
    try:
        import triton

        version = triton.__version__
    except ImportError:
        version = None
    driver = None
    if torch.cuda.is_available():
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    return {
        "device": device_name(),
        "driver": driver,
        "torch": torch.__version__,
        "triton": version,
        "threads": torch.get_num_threads(),
    }


def save() -> list[Path]:
    """Writes ``results/<device>/<date>-<op>.json``, one file an op; a case measured again today is replaced."""
    paths = []
    for op, rows in _rows.items():
        folder = RESULTS / device_name()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{datetime.now(UTC):%Y-%m-%d}-{op}.json"
        known = json.loads(path.read_text())["rows"] if path.exists() else []
        rows = json.loads(json.dumps(rows))  # tuples become lists, as in the file
        measured = {_identity(row) for row in rows}
        rows = [row for row in known if _identity(row) not in measured] + rows
        path.write_text(json.dumps({"op": op, **conditions(), "rows": rows}, indent=1) + "\n")
        paths.append(path)
    return paths


def keep(name: str, **measured: Any) -> Path:
    """Writes ``results/<device>/<date>-<name>.json`` of a script that is no benchmark of one op."""
    path = RESULTS / device_name() / f"{datetime.now(UTC):%Y-%m-%d}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(conditions() | measured, indent=1) + "\n")
    return path


_MEASURED = {"median_ms", "p20_ms", "p80_ms", "peak_bytes", "ratio", "tflops"}


def _identity(row: dict[str, Any]) -> str:
    return json.dumps({key: value for key, value in row.items() if key not in _MEASURED}, sort_keys=True)
