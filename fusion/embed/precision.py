"""In which floating-point format a model runs for a map."""

from __future__ import annotations

from typing import Literal, cast

import torch

__all__ = ["Precision", "autocast", "resolved"]

Precision = Literal["auto", "float32", "bfloat16"]


def resolved(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """``"auto"`` is bfloat16 on GPUs that calculate in it, which agrees to about two digits, and float32 elsewhere.

    Raises:
        ValueError: any other word.
    """
    if precision == "auto":
        return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported(False) else "float32"
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is auto, float32 or bfloat16, not {precision!r}")
    return cast(Literal["float32", "bfloat16"], precision)


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Products in bfloat16 within, sums and what needs more digits in float32; nothing changes for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(precision, device) == "bfloat16")
