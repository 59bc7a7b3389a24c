"""What a call costs the host, with the kernels left out: ``python benchmarks/host_time.py [--write]``.

At the sizes of Earth observation kernels are short, and a step is bound by the Python, the ATen ops and the launches
around them. Here launches do nothing and tensors are small ones of a CPU, so that this is all there is. One
thread, medians. ``--write`` puts the table into README.md.
"""

# ruff: noqa: E402  (the checkout comes into the path first)
from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu import checkout

sys.path[:0] = checkout.path()

import torch
from torch.profiler import ProfilerActivity, profile
from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from benchmarks.harness import device_name
from fusion.kernels import backends, euclidean_buckets, nearest_code, patch_info_nce, relative_attention, use_backend

Step = Callable[[], Any]
README = Path(__file__).parent / "README.md"
BLOCK = re.compile(r"(<!-- host time -->\n).*?(<!-- end of host time -->)", re.S)
CALLS, WARM = 300, 0.5  # calls that count; seconds before them, in which a processor comes to its clock
# Microseconds before the host side was rewritten (commit 89cb566, one core of an EPYC), and what is to be reached.
BEFORE = {
    "InfoNCE forward": (333, None),
    "InfoNCE forward + backward": (1339, 350),
    "attention forward": (373, None),
    "attention forward + backward": (1712, 400),
    "nearest_code": (115, 60),
}


class Launches:
    """Takes the place of what Triton compiles: counts launches and makes none. The first of a kind is not counted."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Launches:
        module = sys.modules[backends.__module__]
        self.kept = JITFunction.run, module._wrong_device, module.unavailable
        launches = self

        class Nothing(CompiledKernel):
            module = None

            def __init__(self) -> None:
                """Compiles nothing."""

            def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
                launches.count += 1
                return lambda *args: None

        JITFunction.run = lambda kernel, *args, **options: Nothing()
        module._wrong_device = lambda backend, device: None  # Triton's kernels do not run, so they may on a CPU
        module.unavailable = lambda backend: None
        return self

    def __exit__(self, *error: object) -> None:
        module = sys.modules[backends.__module__]
        JITFunction.run, module._wrong_device, module.unavailable = self.kept


def steps() -> dict[str, Step]:
    """As in a training loop: the same layout every time, tensors that are new."""
    torch.manual_seed(0)
    tokens = torch.randn(3, 4, 36, 64, dtype=torch.bfloat16).requires_grad_()
    position = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(36).repeat(3)])
    layout = {"bucket": euclidean_buckets(6, 6), "query_position": position, "key_position": position}
    operands = [torch.randn(2, 4, 109, 16, dtype=torch.bfloat16).requires_grad_() for _ in range(3)]
    table = torch.randn(1, 16, 8).requires_grad_()
    vectors, codebook = torch.randn(100, 64), torch.randn(50, 64)

    def attend() -> torch.Tensor:
        return relative_attention(*operands, table=table, **layout)

    gradient = torch.randn(2, 4, 109, 16, dtype=torch.bfloat16)
    return {
        "InfoNCE forward": torch.no_grad()(lambda: patch_info_nce(tokens)),
        "InfoNCE forward + backward": lambda: torch.autograd.grad(patch_info_nce(tokens), tokens),
        "attention forward": torch.no_grad()(attend),
        "attention forward + backward": lambda: torch.autograd.grad(attend(), [*operands, table], gradient),
        "nearest_code": lambda: nearest_code(vectors, codebook),
    }


def measure() -> dict[str, tuple[float, float, float]]:
    """Microseconds, launches and ATen ops of a call; ops inside others are not counted."""
    found = {}
    with Launches() as launches, use_backend("triton"):
        for name, step in steps().items():
            began = time.perf_counter()
            while time.perf_counter() - began < WARM:
                step()
            times = []
            for _ in range(CALLS):
                start = time.perf_counter()
                step()
                times.append(1e6 * (time.perf_counter() - start))
            launches.count = 0
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                step()
            found[name] = statistics.median(times), launches.count, sum(_outermost(e) for e in profiler.events())
    return found


def _outermost(event: Any) -> bool:
    return event.name.startswith("aten::") and not (event.cpu_parent and event.cpu_parent.name.startswith("aten::"))


def table(found: dict[str, tuple[float, float, float]]) -> str:
    lines = ["| call | before | now | to reach | launches | ATen ops |", "|---|--:|--:|--:|--:|--:|"]
    for name, (microseconds, launches, operations) in found.items():
        before, wanted = BEFORE[name]
        goal = f"{wanted} µs" if wanted else ""
        lines.append(f"| {name} | {before} µs | {microseconds:.0f} µs | {goal} | {launches} | {operations} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    import triton

    text = table(measure())
    print(text)
    if write:
        where = f"{device_name()}, torch {torch.__version__}, triton {triton.__version__}.\n\n"
        README.write_text(BLOCK.sub(lambda block: block[1] + where + text + block[2], README.read_text()))


if __name__ == "__main__":
    main()
