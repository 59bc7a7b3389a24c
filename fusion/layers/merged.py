"""Layers that follow each other, computed as one where nothing is learned: for encoding on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dropout import Dropout, relu_dropout
from .masked import MaskedBatchNorm

__all__ = ["linear_norm_relu", "may_merge", "merged"]


def may_merge(x: Tensor, *modules: nn.Module) -> bool:
    """Whether these may be computed as one: on a CPU, in evaluation and without gradients, not traced, with weights of
    more than half precision, and none of them watched or replaced (by hooks, parametrizations, adapters)."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not any(
        module.training
        or module._forward_hooks
        or module._forward_pre_hooks
        or not type(module).__module__.startswith(("fusion.", "torch.nn.modules."))
        or any(p.dtype in (torch.bfloat16, torch.float16) for p in module.parameters(recurse=False))
        for module in modules
    )


def merged(linear: nn.Linear, norm: MaskedBatchNorm) -> tuple[Tensor, Tensor]:
    """Weight (D, C) and bias (D) of the layer that is ``norm(linear(x))`` in evaluation."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return linear.weight * scale[:, None], torch.addcmul(norm.bias, linear.bias - norm.running_mean, scale)


def linear_norm_relu(
    linear: nn.Linear, norm: MaskedBatchNorm, x: Tensor, valid: Tensor | None, dropout: Dropout | None = None
) -> Tensor:
    """dropout(relu(norm(linear(x), valid))) of x (..., C) and valid (...), or None: (..., D)."""
    drops = dropout is not None and dropout.active
    if not drops and norm.track_running_stats and may_merge(x, linear, norm):
        return F.linear(x, *merged(linear, norm)).relu_()
    y = norm(linear(x), valid)
    return F.relu(y) if dropout is None else relu_dropout(y, dropout.p, dropout.training)
