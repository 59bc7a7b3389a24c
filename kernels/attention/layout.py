"""What depends on positions alone, worked out once for a layer and remembered while its tensors live."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..memory import remember
from .euclidean import BUCKETS, grid_of, places

__all__ = ["Layout", "live_buckets", "remember"]


@dataclass
class Layout:
    """Buckets and positions as the GPU kernels take them."""

    index: Tensor  # (S, S) uint8: 0 for the most frequent bucket, n for the n-th other that occurs
    live: Tensor  # (1 + near,) int32: the most frequent bucket, then the others that occur
    query_position: Tensor  # (Lq,) int32
    key_position: Tensor  # (Lk,) int32
    euclidean: int  # which of euclidean.BUCKETS is the far one, the others following in their order; -1: another table
    query_place: Tensor | None  # (Lq,) int32, with a Euclidean table: euclidean.places
    key_place: Tensor | None  # (Lk,) int32
    queries: int
    keys: int
    positions: int
    _memory: dict = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        bucket: Tensor,
        query_position: Tensor | None,
        key_position: Tensor | None,
        queries: int,
        keys: int,
        buckets: int,
    ) -> Layout:
        def make() -> Layout:
            live, euclidean, grid = live_buckets(bucket, buckets), -1, grid_of(bucket)
            at = [
                (torch.arange(tokens, device=bucket.device) if given is None else given).to(torch.int32).contiguous()
                for given, tokens in ((query_position, queries), (key_position, keys))
            ]
            place = (None, None)
            if grid is not None and buckets > max(BUCKETS):
                far = int(live[0])
                euclidean, near = BUCKETS.index(far), [k for k in BUCKETS if k != far]
                live = torch.tensor([far, *near], dtype=torch.int32, device=bucket.device)
                place = [places(grid, position, away) for position, away in zip(at, (1, -1), strict=True)]
            rank = torch.zeros(buckets, dtype=torch.uint8, device=bucket.device)
            rank[live.long()] = torch.arange(live.numel(), dtype=torch.uint8, device=bucket.device)
            return cls(rank[bucket.long()], live, *at, euclidean, *place, queries, keys, bucket.shape[0])

        return remember((bucket, query_position, key_position), ("layout", queries, keys, buckets), make)

    def remember(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._memory:
            self._memory[key] = make()
        return self._memory[key]


def live_buckets(bucket: Tensor, buckets: int) -> Tensor:
    """The buckets that occur, int32, the most frequent one first."""

    def make() -> Tensor:
        counts = bucket.reshape(-1).long().cpu().bincount(minlength=buckets)  # on a GPU bincount uses atomics
        live = counts.argsort(descending=True, stable=True)[: max(1, int((counts > 0).sum()))]
        return live.to(bucket.device, torch.int32)

    return remember((bucket,), ("live", buckets), make)
