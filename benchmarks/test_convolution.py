"""3x3 convolutions of small maps against their peers (contenders/convolution.py)."""

from __future__ import annotations

import functools

import pytest
import torch

from .contenders.convolution import PASSES, PEERS, SIZES, operations, step
from .harness import behind, compare

# What is left to PyTorch takes as long as PyTorch.
_LEAST = 0.95


@pytest.mark.parametrize("passes", PASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_maps_of_the_encoder(benchmark, size: str, dtype: torch.dtype, passes: str) -> None:
    benchmark.group = f"convolution_3x3 {size} {dtype} {passes}"
    case = {"size": size, "shape": list(SIZES[size]), "dtype": str(dtype).removeprefix("torch."), "pass": passes}
    contenders = {name: functools.partial(step, name, size, dtype, passes) for name in ("fusion", *PEERS)}
    rows = compare(benchmark, "convolution_3x3", case, contenders, operations=operations(size, passes))
    behind(benchmark, rows, least=_LEAST)
