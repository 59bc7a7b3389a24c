"""Argument checks of quantization."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..arguments import check_tensor

__all__ = [
    "FORMS",
    "GRADIENTS",
    "METRICS",
    "check_choice",
    "check_devices",
    "check_float",
    "check_levels",
    "check_vectors",
    "integer_codes",
]

METRICS = ("l2", "cosine")
GRADIENTS = ("straight-through", "rotation")
FORMS = ("tanh", "sigmoid")


def check_float(op: str, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        check_tensor(op, name, tensor)
    check_devices(op, **tensors)


def check_devices(op: str, **tensors: Tensor) -> None:
    """Raises ValueError where they are on several."""
    devices = {str(t.device) for t in tensors.values()}
    if len(devices) > 1:
        raise ValueError(f"{op}: {', '.join(tensors)} must be on one device, got {', '.join(sorted(devices))}")


def integer_codes(op: str, codes: Tensor) -> Tensor:
    """``codes`` as int64; a TypeError where they are no integers."""
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise TypeError(f"{op}: codes must be integer, got {codes.dtype}")
    return codes.long()


def check_choice(op: str, argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{op}: {argument}={value!r} is not one of {', '.join(map(repr, choices))}")


def check_vectors(op: str, x: Tensor, codebook: Tensor, metric: str) -> None:
    check_float(op, x=x, codebook=codebook)
    check_choice(op, "metric", metric, METRICS)
    if codebook.ndim != 2 or 0 in codebook.shape:
        raise ValueError(f"{op}: codebook must be (K, D) with K, D >= 1, got {tuple(codebook.shape)}")
    if x.ndim == 0 or x.shape[-1] != codebook.shape[1]:
        raise ValueError(
            f"{op}: x {tuple(x.shape)} must end in the codebook's D={codebook.shape[1]} "
            f"(codebook {tuple(codebook.shape)}); transpose channels to the last dimension"
        )


def check_levels(op: str, levels: Sequence[int]) -> list[int]:
    """``levels`` as a list of ints, or a ValueError that says what is wrong."""
    levels = [int(n) for n in levels]
    if not levels or min(levels) < 2:
        raise ValueError(f"{op}: levels must be integers >= 2, got {levels}")
    if math.prod(levels) > 2**63 - 1:
        raise ValueError(f"{op}: levels {levels} make {math.prod(levels)} codes, more than int64 can number")
    return levels
