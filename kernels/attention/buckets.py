"""The checks on the values of bucket tables and positions."""

from __future__ import annotations

from torch import Tensor

from ..memory import remember

__all__ = ["check_indices", "extent"]


def extent(index: Tensor) -> tuple[int, int]:
    """Smallest and largest value; remembered, so that a training step neither scans again nor waits for the GPU."""

    def look() -> tuple[int, int]:
        low, high = index.aminmax()
        return int(low), int(high)

    return remember((index,), "extent", look)


def check_indices(bucket: Tensor, query_position: Tensor | None, key_position: Tensor | None, buckets: int) -> None:
    """Refuses bucket values outside ``0..buckets-1`` and positions outside the bucket table.

    Looking at a tensor on a GPU waits for it, so positions made anew in every call are looked at there the first time
    that so many come with this bucket table; later ones the kernels' own indexing refuses, less kindly.

    Raises:
        ValueError: with the offending value and the range.
    """

    def look() -> bool:
        if bucket.numel():
            _within("bucket", bucket, buckets, f"table has {buckets} buckets")
        looked_at: set[tuple[str, int]] = remember((bucket,), "looked at", set)
        for name, position in (("query_position", query_position), ("key_position", key_position)):
            if position is None or position.numel() == 0:
                continue
            if not position.is_cuda or (name, position.numel()) not in looked_at:
                _within(name, position, bucket.shape[0], f"bucket covers {bucket.shape[0]} positions")
                looked_at.add((name, position.numel()))
        return True

    remember((bucket, query_position, key_position), ("checked", buckets), look)


def _within(name: str, index: Tensor, count: int, reason: str) -> None:
    low, high = extent(index)
    if low < 0 or high >= count:
        raise ValueError(
            f"relative_attention: {name} holds {low if low < 0 else high}, outside 0..{count - 1}: {reason}"
        )
