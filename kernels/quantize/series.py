"""Series as tokenizers are given them: tensors or arrays of one to three dimensions, with missing values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..from_numpy import floats, integers

__all__ = ["as_channels", "as_codes", "as_series", "observed"]


def as_series(op: str, values: Any) -> Tensor:
    """Series as a tensor: arrays, masked or not, and columns become one, in which what they mask is NaN."""
    return values if isinstance(values, Tensor) else _tensor(floats(op, "series", values, missing=True))


def as_codes(op: str, codes: Any) -> Tensor:
    """Codes as a tensor; what an array masks is -1."""
    return codes if isinstance(codes, Tensor) else _tensor(integers(op, "codes", codes))


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def as_channels(op: str, values: Tensor) -> Tensor:
    """Series (..., T) as (B, C, T)."""
    if not values.is_floating_point():
        raise TypeError(f"{op}: series must be floating point, got {values.dtype}; convert with .float()")
    if not 1 <= values.ndim <= 3:
        raise ValueError(f"{op}: series must be (B, C, T), (C, T) or (T,), got {tuple(values.shape)}")
    return values.reshape((1,) * (3 - values.ndim) + values.shape)


def observed(op: str, values: Tensor) -> list[Tensor]:
    """The finite values of every variable, (N_c,)."""
    seen = []
    values = as_series(op, values)
    for c, channel in enumerate(as_channels(op, values).unbind(1)):
        seen.append(channel[channel.isfinite()])
        if seen[-1].numel() == 0:
            raise ValueError(f"{op}: variable {c} of series {tuple(values.shape)} has no finite value to fit on")
    return seen
