"""What must not be cast by autocast: statistics, and backward passes of functions of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["differentiable_once", "without_autocast"]


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast off for a type of device where it is on; nothing for those that it does not know, as ``meta``."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates the backward pass of a ``torch.autograd.Function``: once differentiable, and run without autocast.

    Whoever calls ``loss.backward()`` inside autocast would else have its products cast to other dtypes than those of
    the sums that they are added to.
    """

    @functools.wraps(backward)
    def run(ctx: Any, grad: torch.Tensor, *others: Any) -> Any:
        with without_autocast(grad.device.type):
            return backward(ctx, grad, *others)

    return once_differentiable(run)
