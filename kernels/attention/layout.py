"""What depends on the bucket table and on positions alone, worked out once and remembered while their tensors live.

Positions made anew in every call, as inside ``torch.compile``, find everything that follows from the bucket table; what
follows from their values is worked out on their device, without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..memory import remember
from .euclidean import BUCKETS, coordinates, grid_of

__all__ = ["Layout", "Table", "live_buckets"]

T = TypeVar("T")


@dataclass
class Table:
    """A bucket table as the GPU kernels take it."""

    index: Tensor  # (S, S) uint8: 0 for the most frequent bucket, n for the n-th other that occurs
    live: Tensor  # (1 + near,) int32: the most frequent bucket, then the others that occur
    near: int
    positions: int  # S
    euclidean: int  # which of euclidean.BUCKETS is the far one, the others following in their order; -1: another table
    extra: int  # leading positions that are in one bucket with all others; 0 of another table
    places: tuple[Tensor, Tensor] | None  # of a Euclidean table: (S, 16) float16 for queries and for keys
    numbers: Tensor  # (S,) int32: 0, 1, ...

    @classmethod
    def of(cls, bucket: Tensor, buckets: int) -> Table:
        return remember((bucket,), ("table", buckets), lambda: cls._make(bucket, buckets))

    @classmethod
    def _make(cls, bucket: Tensor, buckets: int) -> Table:
        live, euclidean, extra, both = live_buckets(bucket, buckets), -1, 0, None
        grid = grid_of(bucket) if buckets > max(BUCKETS) else None
        if grid is not None:
            far = int(live[0])
            euclidean, extra = BUCKETS.index(far), grid[2]
            live = torch.tensor([far, *(k for k in BUCKETS if k != far)], dtype=torch.int32, device=bucket.device)
            both = coordinates(grid, False).to(bucket.device), coordinates(grid, True).to(bucket.device)
        rank = torch.zeros(buckets, dtype=torch.uint8, device=bucket.device)
        rank[live.long()] = torch.arange(live.numel(), dtype=torch.uint8, device=bucket.device)
        numbers = torch.arange(bucket.shape[0], dtype=torch.int32, device=bucket.device)
        index = rank[bucket.long()]
        return cls(index, live, live.numel() - 1, bucket.shape[0], euclidean, extra, both, numbers)


@dataclass
class Layout:
    """Bucket table and positions as the GPU kernels take them."""

    table: Table
    query_position: Tensor  # (Lq,) int32
    key_position: Tensor  # (Lk,) int32
    query_place: Tensor  # (Lq, 16) float16 with a Euclidean table, else query_position
    key_place: Tensor
    queries: int
    keys: int
    _memory: dict[Hashable, Any] = field(default_factory=dict)

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
            table = Table.of(bucket, buckets)
            of_queries = _taken(table.numbers, query_position, queries)
            of_keys = _taken(table.numbers, key_position, keys)
            if table.places is None:
                return cls(table, of_queries, of_keys, of_queries, of_keys, queries, keys)
            query_place = _taken(table.places[0], query_position, queries)
            key_place = _taken(table.places[1], key_position, keys)
            return cls(table, of_queries, of_keys, query_place, key_place, queries, keys)

        return remember((bucket, query_position, key_position), ("layout", queries, keys, buckets), make)

    def remember(self, key: Hashable, make: Callable[[], T]) -> T:
        known: T | None = self._memory.get(key)
        if known is None:
            known = self._memory[key] = make()
        return known


def _taken(of_all: Tensor, position: Tensor | None, tokens: int) -> Tensor:
    """Rows of a tensor over all positions; checks positions on their device, as index_select does."""
    return of_all[:tokens] if position is None else of_all.index_select(0, position.long())


def live_buckets(bucket: Tensor, buckets: int) -> Tensor:
    """The buckets that occur, int32, the most frequent one first."""

    def make() -> Tensor:
        counts = bucket.reshape(-1).long().cpu().bincount(minlength=buckets)  # on a GPU bincount uses atomics
        live = counts.argsort(descending=True, stable=True)[: max(1, int((counts > 0).sum()))]
        return live.to(bucket.device, torch.int32)

    return remember((bucket,), ("live", buckets), make)
