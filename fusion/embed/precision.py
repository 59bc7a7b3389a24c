"""In which floating-point format a model runs for a map."""

from __future__ import annotations

from typing import Literal, cast

import torch

from ..layers.autocast import bfloat16_unavailable

__all__ = ["Chosen", "Precision", "autocast", "decided"]

Precision = Literal["auto", "float32", "bfloat16"]
Chosen = Literal["float32", "bfloat16"]


def decided(precision: Precision, device: torch.device) -> Chosen | None:
    """``"auto"`` is bfloat16 on GPUs that calculate in it, which agrees to about two digits, and float32 on processors
    that do not; on those that do, None: a trial decides, see :mod:`fusion.embed.trial`.

    Raises:
        ValueError: any other word.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"precision is auto, float32 or bfloat16, not {precision!r}")
    if precision != "auto":
        return cast(Chosen, precision)
    if device.type not in ("cpu", "cuda") or bfloat16_unavailable(device.type):
        return "float32"
    return "bfloat16" if device.type == "cuda" else None


def autocast(precision: Chosen, device: torch.device) -> torch.autocast:
    """Products in bfloat16 within, sums and what needs more digits in float32; nothing changes for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
