"""Weights averaged over the steps of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["WeightAverage", "averaged"]


class WeightAverage:
    """Exponential moving average of what a module learns: its trained parameters and statistics of batch norms.

    After step n it is ``d * average + (1 - d) * weights`` with ``d = min(decay, (1 + n) / (10 + n))``, so that the
    first steps, far from the end, are forgotten. It is no part of the module's own state: what is saved as the model
    is the average itself, and :meth:`state_dict` goes into the state of the run.

    Args:
        decay: in (0, 1), e.g. 0.99: about the last hundred steps count.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.tensors: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the weights after a step of the optimizer."""
        learned = _learned(module)
        self.steps += 1
        if not self.tensors:
            self.tensors = {name: tensor.clone() for name, tensor in learned.items()}
            return
        weight = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, tensor in learned.items():
            self.tensors[name] = self.tensors[name].to(tensor.device).lerp_(tensor, weight)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchanges the module's weights and their average; twice changes no bit. Nothing before the first step."""
        learned = _learned(module)
        for name, average in self.tensors.items():
            own = learned[name].clone()
            learned[name].copy_(average)
            self.tensors[name] = own

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "tensors": self.tensors}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.tensors = state["steps"], dict(state["tensors"])


@contextmanager
def averaged(module: nn.Module) -> Iterator[None]:
    """Within it a module that averages its weights has the averages in their place; others are as they are."""
    average = getattr(module, "average", None)
    if not isinstance(average, WeightAverage):
        yield
        return
    average.swap(module)
    try:
        yield
    finally:
        average.swap(module)


def _learned(module: nn.Module) -> dict[str, Tensor]:
    """By name; of batch norms only those that learn, for the statistics of a frozen model stay what they are."""
    found = {name: parameter.detach() for name, parameter in module.named_parameters() if parameter.requires_grad}
    for name, part in module.named_modules():
        learns = isinstance(part, _BatchNorm) and (part.weight is None or part.weight.requires_grad)
        if learns and part.running_mean is not None:
            found |= {f"{name}.running_mean": part.running_mean, f"{name}.running_var": part.running_var}
    return found
