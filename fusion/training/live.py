"""Bytes of the tensors that are alive while something is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from fusion.data import TileBatch

__all__ = ["OutOfRoom", "peak_bytes"]


class OutOfRoom(Exception):
    """A step took more than it may."""

    def __init__(self, bytes_: int) -> None:
        super().__init__(bytes_)
        self.bytes = bytes_


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and their peak; sees what every operator returns, in backward and in
    recomputed parts too, but not the scratch space inside an operator. Raises where there are more than ``room``."""

    def __init__(self, room: int) -> None:
        TorchDispatchMode.__init__(self)
        self.room = room
        self.bytes: int = 0
        self.peak: int = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, out)
        return out

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """These were there before."""
        self._known.update(tensor.untyped_storage()._cdata for tensor in tensors)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
            if self.bytes > self.room:
                raise OutOfRoom(self.bytes)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


def peak_bytes(run: Callable[[], object], batch: TileBatch, room: int, known: Iterable[Tensor] = ()) -> int:
    """At most, of a batch and of what ``run`` makes of it.

    Args:
        known: tensors that do not count.

    Raises:
        OutOfRoom: more than ``room``.
    """
    inputs = list(_tensors_of(batch))
    read = sum(tensor.nbytes for tensor in inputs)
    try:
        with _LiveBytes(room - read) as live:
            live.ignore([*known, *inputs])
            run()
    except OutOfRoom as reached:
        raise OutOfRoom(reached.bytes + read) from None
    return int(live.peak) + read


def _tensors_of(batch: TileBatch) -> Iterable[Tensor]:
    """What a batch is made of."""
    for group in (batch.values, batch.days, batch.valid, batch.observed):
        yield from group.values()
    if batch.labels is not None:
        yield batch.labels
