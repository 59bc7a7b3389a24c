"""Compiled pooling of dates (csrc/cpu/pooling.cpp) behind the operator's signature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..backends import implement
from ..operators import declare_native

_pool_dates_cpp = declare_native(
    "pool_dates_cpp(Tensor values, Tensor? bias, Tensor? valid, Tensor? norm_weight, Tensor? norm_bias, int groups, "
    "float eps, Tensor query, Tensor offset, Tensor positions) -> (Tensor, Tensor)"
)


def _refuses(values: Tensor, *args: Any) -> str | None:
    """float16 and float64 are left to PyTorch."""
    taken = (torch.float32, torch.bfloat16)
    return None if values.dtype in taken else f"takes float32 and bfloat16, not {values.dtype}"


@implement("pool_dates", "cpp", refuses=_refuses)
def pool_dates(values: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    rest = [a.contiguous() if isinstance(a, Tensor) else a for a in args]
    rest = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in rest]
    pooled, attention = _pool_dates_cpp(values.contiguous(), *rest)
    return pooled, attention
