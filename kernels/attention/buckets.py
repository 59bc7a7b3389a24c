"""Bucket tables: which relative-position bucket a pair of positions falls into, and the checks on their values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layout import remember

__all__ = ["check_indices", "euclidean_buckets", "extent"]

# iRPE's piecewise index function (Wu et al., ICCV 2021, Eq. 18) with the ratio 1.9 used for images:
# linear up to ALPHA, logarithmic up to GAMMA, never beyond BETA.
_ALPHA, _BETA, _GAMMA = 1.9, 2 * 1.9, 8 * 1.9
_EXTRA_BUCKET = 7


def euclidean_buckets(height: int, width: int, extra: int = 1) -> Tensor:
    """iRPE's Euclidean bucket of every pair of positions of a ``height x width`` grid.

    The distance of two patches, ``round(sqrt(dr^2 + dc^2))``, gives bucket 3 (0), 4 (1), 5 (2 and 3) or
    6 (4 and more); a pair that touches one of the ``extra`` leading positions (class tokens) is in bucket 7.
    A table of 8 buckets therefore has three that this layout never uses, as in the original.

    Returns:
        (S, S) int64 with S = extra + height * width, patches in row-major order.

    Raises:
        ValueError: a side is not positive or ``extra`` is negative.

    Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer", ICCV 2021.
    """
    if height < 1 or width < 1 or extra < 0:
        raise ValueError(
            f"euclidean_buckets: needs height, width >= 1 and extra >= 0, got {height} x {width} and extra={extra}"
        )
    rows = torch.arange(height).repeat_interleave(width)  # (P,)
    columns = torch.arange(width).repeat(height)  # (P,)
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2  # (P, P)
    buckets = torch.full((extra + height * width,) * 2, _EXTRA_BUCKET)
    buckets[extra:, extra:] = _piecewise(squared.double().sqrt().round())
    return buckets


def _piecewise(distance: Tensor) -> Tensor:
    """iRPE's index function of a rounded distance, shifted so that it starts at ``int(BETA)``."""
    slope = (_BETA - _ALPHA) / math.log(_GAMMA / _ALPHA)
    beyond = (_ALPHA + (distance.clamp(min=1.0) / _ALPHA).log() * slope).round().clamp(max=_BETA)
    return torch.where(distance <= _ALPHA, distance, beyond).long() + int(_BETA)


def extent(index: Tensor) -> tuple[int, int]:
    """Smallest and largest value; remembered, so that a training step neither scans again nor waits for the GPU."""
    return remember((index,), "extent", lambda: tuple(bound.item() for bound in index.aminmax()))


def check_indices(bucket: Tensor, query_position: Tensor | None, key_position: Tensor | None, buckets: int) -> None:
    """Refuses bucket values outside ``0..buckets-1`` and positions outside the bucket table.

    Raises:
        ValueError: with the offending value and the range.
    """
    positions = bucket.shape[0]
    checks = (
        ("bucket", bucket, buckets, "table has {} buckets"),
        ("query_position", query_position, positions, "bucket covers {} positions"),
        ("key_position", key_position, positions, "bucket covers {} positions"),
    )
    for name, index, count, reason in checks:
        if index is None or index.numel() == 0:
            continue
        low, high = extent(index)
        if low < 0 or high >= count:
            raise ValueError(
                f"relative_attention: {name} holds {low if low < 0 else high}, outside 0..{count - 1}: "
                + reason.format(count)
            )
