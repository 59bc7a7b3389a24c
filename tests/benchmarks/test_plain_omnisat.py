"""The peer of the training step is the same model: its loss and gradients are ours."""

from __future__ import annotations

import torch

from benchmarks.contenders.omnisat import observed, system
from benchmarks.plain_omnisat import plainly


def test_plain_computes_the_same() -> None:
    """Without dropout, which draws other noise."""
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
