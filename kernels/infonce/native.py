"""The compiled CPU backend of patch InfoNCE: csrc/cpu/infonce.h behind the operators' arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from ..operators import declare_native
from .inputs import Inputs

__all__ = ["backward", "forward", "refuses"]

_INPUTS = "Tensor tokens, Tensor modality, Tensor block, Tensor ring, Tensor? anchor, float temperature"
_forward = declare_native(
    f"patch_info_nce_forward_cpp({_INPUTS}, bool normalize, bool accuracy) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_backward = declare_native(
    f"patch_info_nce_backward_cpp(Tensor grad, {_INPUTS}, Tensor log_z, Tensor log_y, bool normalize) "
    "-> (Tensor, float)"
)


def refuses(x: Inputs) -> str | None:
    """Why the compiled backend cannot run this call, or None."""
    return "has no float16 arithmetic" if x.tokens.dtype == torch.float16 else None


def forward(x: Inputs, normalize: bool, accuracy: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row losses and what the backward pass needs; see registration.py."""
    loss, log_z, log_y, inverse, hit = _forward(*x[:5], _number(x), normalize, accuracy)
    return loss, log_z, log_y, inverse, hit


def backward(
    grad: Tensor, x: Inputs, log_z: Tensor, log_y: Tensor, inverse: Tensor, normalize: bool, needs_temperature: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of the anchors' tokens, (R, D), and their share of the gradient of the temperature, ()."""
    d_tokens, d_temperature = _backward(grad, *x[:5], _number(x), log_z, log_y, normalize)
    return d_tokens, x.of_temperature.new_full((), d_temperature)


def _number(x: Inputs) -> float:
    return x.value if x.temperature is None else x.temperature.item()
