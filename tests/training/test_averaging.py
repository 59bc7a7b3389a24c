"""Models are averaged with their buffers (EMA, SWA, Lightning's WeightAveraging) without loss of what is no weight."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fusion.training import load_model

SAVED = Path(__file__).parent / "saved"


@pytest.mark.parametrize("system", ["omnisat", "token-fusion", "context"])
@pytest.mark.parametrize("averaging", [None, get_ema_multi_avg_fn(0.9)], ids=["mean", "ema"])
def test_the_average_of_one_model_is_that_model(system, averaging):
    model = load_model(SAVED / f"{system}.safetensors", system=system)
    averaged = AveragedModel(model, use_buffers=True, multi_avg_fn=averaging)
    for _ in range(3):
        averaged.update_parameters(model)
    wanted = model.state_dict() | dict(model.named_buffers())
    found = averaged.module.state_dict() | dict(averaged.module.named_buffers())
    assert wanted.keys() == found.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=lambda told, n=name: f"{n}: {told}")
