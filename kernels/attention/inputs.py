"""What every backend of relative-position attention is given, in the order of the operators' arguments."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Inputs", "empty_like_heads", "statistics_dtype", "with_unit_stride"]


class Inputs(NamedTuple):
    """Shapes as in :func:`fusion.kernels.relative_attention`; ``query`` has the batch of the keys."""

    query: Tensor  # (B, H, Lq, D)
    key: Tensor  # (B, H, Lk, D)
    value: Tensor  # (B, H, Lk, D)
    table: Tensor  # (1|H, D, K) contextual, (1|H, K) bias
    bucket: Tensor  # (S, S)
    query_position: Tensor | None  # (Lq,)
    key_position: Tensor | None  # (Lk,)
    key_valid: Tensor | None  # (B, Lk)
    seed: Tensor | None  # (1,) int64; there where dropout_p > 0
    dropout_p: float
    scale: float

    @property
    def buckets(self) -> int:
        """K."""
        return self.table.shape[-1]

    @property
    def contextual(self) -> bool:
        return self.table.dim() == 3


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Softmax statistics and sums are float32 for half precisions."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def empty_like_heads(tensor: Tensor) -> Tensor:
    """Empty (B, H, L, D) laid out as (B, L, H, D) in memory, so that merging the heads is a view."""
    b, h, length, d = tensor.shape
    return tensor.new_empty_strided((b, h, length, d), (length * h * d, d, h * d, 1))


def with_unit_stride(tensor: Tensor) -> Tensor:
    """With features side by side in memory, as compiled kernels read them; copied only where they are not."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
