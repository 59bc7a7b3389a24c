"""What modules hold besides parameters, and what must not become of it when a module is moved, cast or averaged."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["has_values", "keeping_precision", "moved", "widest"]


def keeping_precision(function: Callable[[Tensor], Tensor], *kept: Tensor) -> Callable[[Tensor], Tensor]:
    """What ``nn.Module._apply`` does to each tensor, ``function``, but that the ``kept`` floats are not narrowed.

    ``module.half()`` is for weights. A moving average in float16 stands still, and edges of bins fall together: these
    stay float32 or float64, as they are. Only where a device has no float64, as MPS, they become float32.
    """
    ours = {id(t) for t in kept}

    def apply(t: Tensor) -> Tensor:
        if id(t) not in ours:
            return function(t)
        try:
            result = function(t)
        except TypeError:
            if t.dtype != torch.float64:
                raise
            return function(t.float())
        return result if result.dtype.itemsize >= t.dtype.itemsize else t.to(result.device)

    return apply


def moved(constant: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """``constant`` on the device to which ``function``, given by ``nn.Module._apply``, brings tensors.

    In its own dtype and with its values: it follows from how the module was made, and no checkpoint has it. On ``meta``
    there are no values, so that it stays where it is.
    """
    device = function(torch.empty(0, device=constant.device)).device
    return constant if device.type == "meta" else constant.to(device)


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def has_values(*tensors: Tensor) -> bool:
    """Whether values can be read: not of tensors on ``meta``, and not of fake ones."""
    from torch._subclasses.fake_tensor import FakeTensor

    return not any(t.is_meta or isinstance(t, FakeTensor) for t in tensors)
