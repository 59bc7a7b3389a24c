"""Argument checks of patch InfoNCE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..arguments import check_tensor
from .layout import EXCLUDE

__all__ = ["check_labels", "check_options", "check_tokens", "dense_mask"]


def check_tokens(op: str, tokens: Tensor) -> None:
    """Refuses what is no dense tensor of floats, and tokens (..., D) without features."""
    check_tensor(op, "tokens", tokens)
    if tokens.shape[-1:] == (0,):
        raise ValueError(f"{op}: tokens {tuple(tokens.shape)} have D = 0 features and thus no similarity")


def check_options(op: str, temperature: float | Tensor, exclude: str, reduction: str) -> tuple[Tensor | None, float]:
    """The temperature as a tensor of shape (), or None and a number."""
    if exclude not in EXCLUDE:
        raise ValueError(f"{op}: exclude must be one of {', '.join(EXCLUDE)}, got {exclude!r}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{op}: reduction must be one of mean, sum, none, got {reduction!r}")
    if isinstance(temperature, Tensor):
        if temperature.numel() != 1 or not temperature.is_floating_point():
            raise ValueError(
                f"{op}: temperature must be a number or a floating-point tensor with one element, got "
                f"{tuple(temperature.shape)} {temperature.dtype}"
            )
        return temperature.reshape(()), 0.0
    if not 0 < temperature < math.inf:
        raise ValueError(f"{op}: temperature must be a positive number, got {temperature}")
    return None, float(temperature)


def _require_device(op: str, name: str, x: Tensor, tokens: Tensor) -> None:
    if x.device != tokens.device:
        raise ValueError(f"{op}: {name} is on {x.device} and tokens on {tokens.device}; move it with .to(...)")


def dense_mask(valid: Tensor, tokens: Tensor) -> Tensor:
    """valid as (M B P,)."""
    shape = tokens.shape[:3]
    if valid.dtype != torch.bool:
        raise TypeError(f"patch_info_nce: valid must be bool (True where a token was observed), got {valid.dtype}")
    if valid.shape not in (shape, shape[:2]):
        raise ValueError(
            f"patch_info_nce: valid must be (M, B, P) = {tuple(shape)} or (M, B) = {tuple(shape[:2])}, "
            f"got {tuple(valid.shape)}"
        )
    _require_device("patch_info_nce", "valid", valid, tokens)
    return (valid if valid.ndim == 3 else valid[..., None]).expand(shape).flatten()


def check_labels(op: str, tokens: Tensor, **labels: Tensor | None) -> None:
    """Refuses labels, integers but for ``valid``, that are not (N,) like tokens (N, D) and on their device."""
    shape = tokens.shape[:1]
    for name, label in labels.items():
        if label is None:
            continue
        if label.shape != shape:
            raise ValueError(f"{op}: {name} must be (N,) = {tuple(shape)} like tokens, got {tuple(label.shape)}")
        _require_device(op, name, label, tokens)
        if (label.dtype != torch.bool) if name == "valid" else (label.is_floating_point() or label.is_complex()):
            wanted = "bool (True where a token was observed)" if name == "valid" else "an integer tensor"
            raise TypeError(f"{op}: {name} must be {wanted}, got {label.dtype}")
