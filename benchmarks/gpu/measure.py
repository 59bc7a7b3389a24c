"""Times of a step on a GPU: by the device's events, by CUDA graph, and what issuing it costs the host.

On a CPU, in the dry run, one call by the clock.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["graph", "kernels", "measure", "peak", "quantiles", "times"]

Step = Callable[[], Any]
MOST, FEWEST = 100, 5  # rounds
_L2 = 256 << 20  # bytes written between rounds, so that no round finds its inputs in the cache


def times(step: Step, seconds: float = 0.06, flush: bool = True) -> list[float]:
    """Milliseconds of each round. Between rounds the cache is overwritten: a training step would have done so."""
    if not torch.cuda.is_available():
        return [_clock(step)]
    cache = torch.empty(_L2 if flush else 1, dtype=torch.int8, device="cuda")
    estimate = _rounds(step, 3, cache)
    rounds = int(min(MOST, max(FEWEST, 1e3 * seconds / max(statistics.median(estimate), 1e-3))))
    return _rounds(step, rounds, cache)


def _rounds(step: Step, rounds: int, cache: torch.Tensor) -> list[float]:
    starts, ends = ([torch.cuda.Event(enable_timing=True) for _ in range(rounds)] for _ in range(2))
    for start, end in zip(starts, ends, strict=True):
        cache.zero_()
        start.record()
        step()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in zip(starts, ends, strict=True)]


def _clock(step: Step) -> float:
    start = time.perf_counter()
    step()
    return 1e3 * (time.perf_counter() - start)


def quantiles(measured: list[float]) -> dict[str, float]:
    p20, median, p80 = torch.tensor(measured, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double())
    return {"median_ms": median.item(), "p20_ms": p20.item(), "p80_ms": p80.item()}


def host(step: Step, rounds: int = 20) -> float:
    """Milliseconds until a call returns, with nothing waiting on the device before it; the median."""
    measured = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        measured.append(_clock(step))
    return statistics.median(measured)


def graph(step: Step) -> Step:
    """The step as one CUDA graph. Raises where something in it waits for the device or allocates outside."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        kept = step()
    captured.kept = kept  # type: ignore[attr-defined]  # its memory is the graph's
    return captured.replay


def peak(step: Step) -> int:
    """Bytes a step needs beyond what was there before it."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def kernels(step: Step, rounds: int = 5) -> dict[str, float]:
    """Microseconds of each kernel in a step, by the profiler: what the device spent on it, whatever the host did."""
    from torch.profiler import ProfilerActivity, profile

    step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(rounds):
            step()
        torch.cuda.synchronize()
    return {event.key: event.device_time_total / rounds for event in profiler.key_averages()}


def measure(step: Step, *, with_graph: bool, seconds: float = 0.06) -> dict[str, Any]:
    """Everything above of one step, as the columns of a row. A graph that cannot be captured says why."""
    if not torch.cuda.is_available():
        return {"median_ms": _clock(step)}
    step()  # compiles
    row: dict[str, Any] = quantiles(times(step, seconds))
    row["host_ms"] = host(step, 20 if row["median_ms"] < 20 else 3)
    row["peak_bytes"] = peak(step)
    if with_graph:
        try:
            row["graph_ms"] = quantiles(times(graph(step), seconds))["median_ms"]
        except Exception as error:
            row["graph_refused"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            torch.cuda.synchronize()
    return row
