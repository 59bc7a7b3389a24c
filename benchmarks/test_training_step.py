"""A pretraining step of OmniSat against plain PyTorch (contenders/omnisat.py).

The peer is left out where it needs more than 16 GB.
"""

from __future__ import annotations

import functools

import pytest
import torch

from .contenders.omnisat import DATES, PARTS, observed, step, system
from .harness import compare
from .plain_omnisat import plainly


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


def test_plain_computes_the_same() -> None:
    """Loss and gradients of the peer, without dropout: it is the same model."""
    results = []
    for which in ("fusion", "plain"):
        torch.manual_seed(0)
        model, objective = system("treesatai", dropout=0.0)
        for parameter in model.parameters():
            if parameter.ndim == 3 and parameter.shape[-1] == 8:  # position tables, which start at zero
                torch.nn.init.normal_(parameter)
        if which == "plain":
            plainly(model, objective)
        batch = observed(model.config, 1)
        losses = objective(model, batch, torch.Generator().manual_seed(0))
        losses.total.backward()
        gradient = torch.cat([p.grad.flatten() for part in (model, objective) for p in part.parameters()])
        results.append((losses.total, gradient))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-4, rtol=1e-4)
    difference = (results[1][1] - results[0][1]).norm() / results[0][1].norm()
    assert difference < 2e-3  # float32 through max-pools and norms over one tile
