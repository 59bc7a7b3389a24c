"""Patch InfoNCE against its peers (contenders/infonce.py)."""

from __future__ import annotations

import functools

import pytest
import torch

from .contenders.common import DEVICE
from .contenders.infonce import operations, step
from .harness import behind, compare

# (M, B, P, D) of a batch on one GPU in the paper.
SIZES = {
    "treesatai": (3, 128, 36, 256),
    "flair": (2, 64, 100, 256),
    "pastis": (3, 4, 1024, 256),
}


def _contenders(shape: tuple[int, ...], dtype: torch.dtype, what: str, peers: tuple[str, ...]) -> dict:
    return {name: functools.partial(step, name, shape, dtype, what) for name in ("fusion", *peers)}


def _case(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> dict:
    return {"shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "pass": what}


@pytest.mark.parametrize("what", ["forward", "backward", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_paper_sizes_float32(benchmark, size: str, what: str) -> None:
    shape = SIZES[size]
    peers = ("plain", "compile", "chunked") if what == "both" else ("plain",)
    benchmark.group = f"patch_info_nce {size} {what} float32"
    rows = compare(
        benchmark,
        "patch_info_nce",
        _case(shape, torch.float32, what),
        _contenders(shape, torch.float32, what, peers),
        operations=operations(shape, what),
        memory=what == "both",
    )
    if what == "both":
        behind(benchmark, rows)


def test_bfloat16(benchmark) -> None:
    """On a CPU against ourselves in float32; on a GPU against the peers too."""
    shape = SIZES["treesatai"]
    contenders = _contenders(shape, torch.bfloat16, "both", ("plain", "compile") if DEVICE == "cuda" else ())
    contenders["fusion float32"] = functools.partial(step, "fusion", shape, torch.float32, "both")
    case = _case(shape, torch.bfloat16, "both")
    work = operations(shape, "both")
    compare(benchmark, "patch_info_nce", case, contenders, operations=work, memory=DEVICE == "cuda")


@pytest.mark.parametrize("tiles", [1, 2, 4, 8, 16, 32, 64, 256])
def test_growth_with_the_batch(benchmark, tiles: int) -> None:
    """Time grows as N^2, memory as N. Plain PyTorch only where its matrix is below 1 GB."""
    shape = (3, tiles, 36, 256)
    rows = compare(
        benchmark,
        "patch_info_nce",
        _case(shape, torch.float32, "both"),
        _contenders(shape, torch.float32, "both", ("plain",) if tiles <= 64 else ()),
        operations=operations(shape, "both"),
        seconds=1.0,
        memory=tiles >= 8,
    )
    behind(benchmark, rows)
