"""What is worked out from tensors once and remembered while they live and stay as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["remember"]

# first tensor -> {(key, others by id, versions of all): (weak references to the others, value, how to wait for it)}
_memory: WeakIdKeyDictionary = WeakIdKeyDictionary()
_LONGEST = 32  # entries kept for one tensor, so that tensors made anew in every call do not pile up


def _nothing() -> None:
    """Stands for a reference to an absent tensor."""


def remember(tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], Any]) -> Any:
    """``make()``, or what it returned when last called for these very tensors, unchanged since, and this key.

    On a GPU another stream than the one that made it waits for it. What is made while a CUDA graph is captured does
    not exist before the graph runs, and is not kept.
    """
    first, *others = tensors
    ids = [key]
    for t in tensors:
        if t is None:
            ids.append(None)
        elif t.is_inference():  # without a version, a change goes unnoticed
            return make()
        else:
            ids.append((id(t), t._version))
    found = tuple(ids)
    entries = _memory.get(first)
    if entries is None:
        entries = _memory[first] = {}
    if (known := entries.get(found)) is not None:
        references, value, made = known
        if all(reference() is t for reference, t in zip(references, others, strict=True)):  # ids are used again
            if made is not None:
                made.wait()
            return value
    if first.is_cuda and torch.cuda.is_current_stream_capturing():
        return make()
    with torch.inference_mode(False):  # what an evaluation makes, training may use later
        value = make()
    # The first tensor is the dictionary's key; a strong reference to it here would keep it alive for ever.
    references = tuple(_nothing if t is None else weakref.ref(t) for t in others)
    entries[found] = references, value, _Made(first.get_device()) if first.is_cuda else None
    if len(entries) > _LONGEST:
        del entries[next(iter(entries))]
    return value


class _Made:
    """The moment of a GPU's current stream at which something has been made."""

    def __init__(self, device: int) -> None:
        self.device, self.stream = device, torch._C._cuda_getCurrentRawStream(device)
        self.event = torch.cuda.current_stream(device).record_event()

    def wait(self) -> None:
        """Makes the current stream wait, if it is another one; a graph is captured after what it needs was made."""
        if torch._C._cuda_getCurrentRawStream(self.device) == self.stream:
            return
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(self.device).wait_event(self.event)
