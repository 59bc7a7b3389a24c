"""Sinusoidal encodings of days."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["encode_days"]


def encode_days(days: Tensor, width: int, *, period: float = 367.0) -> Tensor:
    """Sines and cosines of a day at ``width / 2`` geometrically spaced frequencies.

    Entry j is sin (even j) or cos (odd j) of day / period^(2 floor(j/2) / width). Computed where it is needed
    instead of looked up, so any day is allowed: negative, beyond a year, fractional.

    Args:
        days: (...) days since a fixed date. Angles have the precision of floating days, and float64 for integers:
            at day 365 a float32 angle is off by 1e-5.
        width: number of entries, even.
        period: base of the frequencies in days; the slowest wave is about 2 pi times as long.

    Returns:
        (..., width) float32.
    """
    if width < 2 or width % 2:
        raise ValueError(f"encode_days: width must be even and positive, not {width}")
    dtype = days.dtype if days.is_floating_point() else torch.float64
    exponent = torch.arange(0, width, 2, dtype=dtype, device=days.device) / width  # (width/2,)
    angle = days.to(dtype).unsqueeze(-1) / period**exponent  # (..., width/2)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).to(torch.float32)
