"""What every operator asks of a tensor of numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_tensor", "working_dtype"]

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_tensor(op: str, name: str, given: Any) -> None:
    """
    Raises:
        TypeError: ``given`` is no tensor, not of a dtype that operators compute in, sparse or nested.
    """
    if not isinstance(given, Tensor):
        raise TypeError(
            f"{op}: {name} must be a torch.Tensor, got {type(given).__name__}; convert with torch.as_tensor({name})"
        )
    if given.dtype not in DTYPES:
        raise TypeError(
            f"{op}: {name} must be floating point (float32, float64, bfloat16, float16), got {given.dtype}; "
            f"convert with {name}.float()"
        )
    if given.is_nested or given.layout != torch.strided:
        kind = "nested" if given.is_nested else str(given.layout).removeprefix("torch.")
        way = f"torch.nested.to_padded_tensor({name}, 0.0) and a mask" if given.is_nested else f"{name}.to_dense()"
        raise TypeError(f"{op}: {name} is {kind}, must be dense; convert with {way}")


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """What values are computed and summed in: float64 if any tensor is float64, else float32."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
