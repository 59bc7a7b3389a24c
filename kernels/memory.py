"""What is worked out from tensors once and remembered while they live and stay as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["remember"]

# first tensor -> {(key, others by id, versions of all): (weak references to the others, value)}
_memory: WeakIdKeyDictionary = WeakIdKeyDictionary()
_LONGEST = 32  # entries kept for one tensor, so that tensors made anew in every call do not pile up


def _nothing() -> None:
    """Stands for a reference to an absent tensor."""


def remember(tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], Any]) -> Any:
    """``make()``, or what it returned when last called for these very tensors, unchanged since, and this key."""
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
        references, value = known
        if all(reference() is t for reference, t in zip(references, others, strict=True)):  # ids are used again
            return value
    with torch.inference_mode(False):  # what an evaluation makes, training may use later
        value = make()
    # The first tensor is the dictionary's key; a strong reference to it here would keep it alive for ever.
    entries[found] = tuple(_nothing if t is None else weakref.ref(t) for t in others), value
    if len(entries) > _LONGEST:
        del entries[next(iter(entries))]
    return value
