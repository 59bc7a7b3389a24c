"""Relative-position attention, and iRPE's index operator, against their peers (contenders/attention.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fusion.compat.irpe import rpe_index

from .contenders.attention import BUCKETS, DIM, HEADS, PEERS, lengths, operations, step
from .contenders.attention import SIZES as EVERY_SIZE
from .contenders.common import DEVICE
from .harness import behind, compare

SIZES = [size for size in EVERY_SIZE if "tiny" not in size]


def _compare(benchmark, size: str, dtype: torch.dtype, what: str, peers: tuple[str, ...]) -> dict:
    batch, queries, keys = lengths(size)
    benchmark.group = f"relative_attention {size} {what} {dtype}"
    return compare(
        benchmark,
        "relative_attention",
        {
            **{"size": size, "shape": [batch, HEADS, queries, keys, DIM]},
            **{"dtype": str(dtype).removeprefix("torch."), "pass": what},
        },
        {name: functools.partial(step, name, size, dtype, what) for name in ("fusion", *peers)},
        operations=operations(size, what),
        seconds=6.0 if size.startswith("pastis") else 2.0,  # 3 rounds would be at the mercy of a busy machine
        memory=what == "both",
    )


@pytest.mark.parametrize("what", ["forward", "backward", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_combiner_sizes_float32(benchmark, size: str, what: str) -> None:
    rows = _compare(benchmark, size, torch.float32, what, PEERS if what == "both" else ("plain", "sdpa without bias"))
    if what == "both":
        behind(benchmark, rows, *(name for name in rows if name != "sdpa without bias"))
    if rows and what == "both" and size == "pastis self" and DEVICE == "cpu":
        behind(benchmark, rows, "plain", least=5)
        behind(benchmark, rows, "sdpa without bias", least=1 / 1.2)
        results = 5 * 4 * HEADS * 3073 * DIM  # output and gradients are part of the peak
        assert rows["fusion"]["peak_bytes"] - results <= 64 << 20


@pytest.mark.parametrize("size", SIZES)
def test_combiner_sizes_bfloat16(benchmark, size: str) -> None:
    _compare(benchmark, size, torch.bfloat16, "both", ("plain", "sdpa without bias", *PEERS[4:]))


def _index_step(name: str) -> Callable[[], None]:
    """The original's index operator, forward and backward, at a size of its own benchmark: (32, 16, 109, 8)."""
    torch.manual_seed(0)
    values = torch.randn(32, HEADS, 109, BUCKETS, device=DEVICE, requires_grad=True)
    index = torch.randint(BUCKETS, (109, 109), device=DEVICE)
    gradient = torch.randn(32, HEADS, 109, 109, device=DEVICE)

    def gathered() -> Tensor:
        return values.gather(3, index.expand(32, HEADS, -1, -1))

    run = {"fusion": lambda: rpe_index(values, index), "torch.gather": gathered}[name]
    return lambda: torch.autograd.grad(run(), values, gradient)


def test_index_operator(benchmark) -> None:
    benchmark.group = "rpe_index"
    names = ("fusion", "torch.gather")
    case = {"shape": [32, HEADS, 109, 109, BUCKETS], "dtype": "float32", "pass": "both"}
    compare(benchmark, "rpe_index", case, {name: functools.partial(_index_step, name) for name in names}, memory=False)
