"""A pretraining step of OmniSat against plain PyTorch (contenders/omnisat.py).

The peer is left out where it needs more than 16 GB. In bfloat16 it runs once under autocast and once in float32, which
is what a training without it takes.
"""

from __future__ import annotations

import functools

import pytest
import torch

from fusion.layers.autocast import bfloat16_unavailable

from .contenders.common import DEVICE
from .contenders.omnisat import DATES, PARTS, step
from .harness import behind, compare


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("part", ["whole step", *PARTS])
@pytest.mark.parametrize(
    ("data", "tiles", "plain"),
    [("treesatai", 4, True), ("treesatai", 16, True), ("treesatai", 64, False), ("pastis-hd", 1, False)],
)
def test_step(benchmark, data: str, tiles: int, plain: bool, part: str, dtype: torch.dtype) -> None:
    whole = part == "whole step"
    if tiles == 64 and not whole:
        pytest.skip("parts grow with the batch; measured at 16 tiles")
    if benchmark.disabled and (tiles > 4 or data == "pastis-hd" or dtype == torch.bfloat16):
        pytest.skip("measured only")
    if dtype == torch.bfloat16 and (why := bfloat16_unavailable(DEVICE)):
        pytest.skip(why)
    benchmark.group = f"training step, {data}, {tiles} tiles: {part}, {dtype}"
    contenders = {"fusion": functools.partial(step, "fusion", data, tiles, part, dtype)}
    if plain:
        contenders["plain"] = functools.partial(step, "plain", data, tiles, part, dtype)
    if plain and whole and dtype == torch.bfloat16:
        contenders["plain, float32"] = functools.partial(step, "plain", data, tiles, part)
    case = {"data": data, "tiles": tiles, "dates": DATES, "part": part, "dtype": str(dtype)[6:]}
    rows = compare(benchmark, "training_step", case, contenders, seconds=5.0)
    if whole:
        behind(benchmark, rows)
