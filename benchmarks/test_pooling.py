"""Pooling of dates, and encoding with it, against their peers (contenders/pooling.py)."""

from __future__ import annotations

import functools

import pytest
import torch

from .contenders.pooling import ENCODERS, PEERS, SIZES, encoding, operations, step
from .harness import behind, compare


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_batches_of_maps(benchmark, size: str, dtype: torch.dtype) -> None:
    benchmark.group = f"pool_dates {size} {dtype}"
    case = {"size": size, "shape": list(SIZES[size]), "dtype": str(dtype).removeprefix("torch.")}
    contenders = {name: functools.partial(step, name, size, dtype) for name in ("fusion", *PEERS)}
    rows = compare(benchmark, "pool_dates", case, contenders, operations=operations(size))
    behind(benchmark, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", ENCODERS)
def test_encoding(benchmark, size: str, dtype: torch.dtype) -> None:
    benchmark.group = f"encoding {size} {dtype}"
    case = {"size": f"OmniSat {size}", "shape": [56, 36, 12], "dtype": str(dtype).removeprefix("torch.")}
    contenders = {name: functools.partial(encoding, name, size, dtype) for name in ("fusion", "layers", "compile")}
    behind(benchmark, compare(benchmark, "pool_dates", case, contenders))
