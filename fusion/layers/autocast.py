"""Where bfloat16 is calculated in, and what must not be cast by autocast: statistics, and backward passes of functions
of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["bfloat16_unavailable", "differentiable_once", "to_autocast", "without_autocast"]


def bfloat16_unavailable(device: str) -> str:
    """Why ``device``, "cpu" or "cuda", does not calculate in bfloat16; empty where it does."""
    if device == "cuda":
        return "" if torch.cuda.is_bf16_supported(False) else "this GPU has no bfloat16 arithmetic"
    has = cast(Any, torch.cpu)
    if has._is_amx_tile_supported() or has._is_avx512_bf16_supported():
        return ""
    return "this processor has no bfloat16 arithmetic (AMX or AVX512-BF16)"


def without_autocast(device: str) -> AbstractContextManager[Any]:
    """Autocast off for a type of device where it is on; nothing for those that it does not know, as ``meta``."""
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if on else nullcontext()


def to_autocast(*tensors: Tensor) -> list[Tensor]:
    """To the dtype of autocast, where that is on; autograd functions of one's own must do so themselves."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    return [t.to(torch.get_autocast_dtype(device)) for t in tensors]


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
