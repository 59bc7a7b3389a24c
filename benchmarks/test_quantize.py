"""Nearest-neighbour search, binning and training steps against their peers (contenders/quantize.py)."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from .contenders.common import installed
from .contenders.quantize import LEVELS, bins, decode, look_up, scalars, training
from .harness import behind, compare

LARGEST_MATRIX = 2 << 30  # bytes of distances beyond which the peers that hold them are left out
CODES, DIMS = (256, 1024, 8192, 16_384), (8, 32, 64, 256)
# (N, K, D): every D with every K; for a million vectors the smaller codebooks, and the largest once.
LOOK_UPS = [
    *((rows, size, dim) for rows in (16_384, 131_072) for size in CODES for dim in DIMS),
    *((1_000_000, size, dim) for size in (256, 1024) for dim in DIMS),
    (1_000_000, 16_384, 32),
]


@pytest.mark.parametrize("shape", LOOK_UPS, ids=lambda s: "x".join(map(str, s)))
def test_look_up(benchmark: Any, shape: tuple[int, int, int]) -> None:
    count, size, dim = shape
    held = installed("plain", "compile", "vqp") if 4 * count * size <= LARGEST_MATRIX else ()
    if size != 1024:
        held = tuple(p for p in held if p == "plain")
    contenders = {name: functools.partial(look_up, name, *shape) for name in ("fusion", *held, *installed("faiss"))}
    benchmark.group = f"nearest_code {shape}"
    case = {"what": "look-up", "N": count, "K": size, "D": dim, "dtype": "float32"}
    memory = shape in ((131_072, 8192, 64), (16_384, 8192, 64), (16_384, 1024, 64))
    rows = compare(
        benchmark, "quantize", case, contenders, operations=2 * count * size * dim, seconds=1.0, memory=memory
    )
    behind(benchmark, rows)


@pytest.mark.parametrize("shape", [(16_384, 1024, 64), (131_072, 1024, 32)], ids=lambda s: "x".join(map(str, s)))
def test_training_step(benchmark: Any, shape: tuple[int, int, int]) -> None:
    rows, size, dim = shape
    contenders = {
        name: functools.partial(training, name, *shape) for name in ("fusion", *installed("plain", "compile", "vqp"))
    }
    benchmark.group = f"vector quantizer, training step {shape}"
    case = {"what": "training step", "N": rows, "K": size, "D": dim, "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=2.0)


@pytest.mark.parametrize("uniform", [True, False], ids=["uniform", "quantile"])
def test_bins(benchmark: Any, uniform: bool) -> None:
    count = int(os.environ.get("FUSION_BENCH_VALUES", 100_000_000))
    contenders = {
        name: functools.partial(bins, name, count, uniform)
        for name in ("fusion", *installed("bucketize", "digitize", "copy"))
    }
    benchmark.group = f"bin_encode, {'equal' if uniform else 'unequal'} bins"
    case = {"what": f"{'equal' if uniform else 'unequal'} bins", "values": count, "bins": 256, "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=1.0, memory=False)


def test_decode(benchmark: Any) -> None:
    contenders = {name: functools.partial(decode, name, 10_000_000) for name in ("fusion", "plain")}
    benchmark.group = "bin_decode"
    compare(benchmark, "quantize", {"what": "decode", "values": 10_000_000}, contenders, seconds=1.0, memory=False)


def test_finite_scalars(benchmark: Any) -> None:
    contenders = {name: functools.partial(scalars, name, 1_000_000) for name in ("fusion", *installed("vqp"))}
    benchmark.group = "finite_scalar_quantize"
    case = {"what": "finite scalars", "N": 1_000_000, "levels": list(LEVELS), "dtype": "float32"}
    compare(benchmark, "quantize", case, contenders, seconds=1.0)
