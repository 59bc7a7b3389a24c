"""A pretraining step of OmniSat against plain PyTorch (contenders/omnisat.py).

The peer is left out where it needs more than 16 GB.
"""

from __future__ import annotations

import functools

import pytest

from .contenders.omnisat import DATES, PARTS, step
from .harness import compare


@pytest.mark.parametrize("part", ["whole step", *PARTS])
@pytest.mark.parametrize(
    ("data", "tiles", "plain"),
    [("treesatai", 4, True), ("treesatai", 16, True), ("treesatai", 64, False), ("pastis-hd", 1, False)],
)
def test_step(benchmark, data: str, tiles: int, plain: bool, part: str) -> None:
    if tiles == 64 and part != "whole step":
        pytest.skip("parts grow with the batch; measured at 16 tiles")
    if benchmark.disabled and (tiles > 4 or data == "pastis-hd"):
        pytest.skip("measured only")
    benchmark.group = f"training step, {data}, {tiles} tiles: {part}"
    contenders = {"fusion": functools.partial(step, "fusion", data, tiles, part)}
    if plain:
        contenders["plain"] = functools.partial(step, "plain", data, tiles, part)
    case = {"data": data, "tiles": tiles, "dates": DATES, "part": part, "dtype": "float32"}
    rows = compare(benchmark, "training_step", case, contenders, seconds=5.0)
    if rows and part == "whole step" and plain:
        assert rows["plain"]["ratio"] > 1, "plain PyTorch is faster"
