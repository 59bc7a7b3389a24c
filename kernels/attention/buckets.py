"""The checks on the values of bucket tables and positions."""

from __future__ import annotations

from torch import Tensor

from .layout import remember

__all__ = ["check_indices", "extent"]


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
