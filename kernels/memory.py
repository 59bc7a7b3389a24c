"""What is worked out from tensors once and remembered while they live and stay as they are."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["remember"]

# first tensor -> [(weak references to the others, versions of all, key, value)]
_memory: WeakIdKeyDictionary = WeakIdKeyDictionary()
_LONGEST = 32  # entries kept for one tensor, so that tensors made anew in every call do not pile up


def _nothing() -> None:
    """Stands for a reference to an absent tensor."""


def remember(tensors: tuple[Tensor | None, ...], key: Hashable, make: Callable[[], Any]) -> Any:
    """``make()``, or what it returned when last called for these very tensors, unchanged since, and this key."""
    if any(t is not None and t.is_inference() for t in tensors):  # without a version, a change goes unnoticed
        return make()
    entries = _memory.setdefault(tensors[0], [])
    versions = tuple(-1 if t is None else t._version for t in tensors)
    for references, known_versions, known_key, value in entries:
        if known_key != key or known_versions != versions:
            continue
        if all(reference() is t for reference, t in zip(references, tensors[1:], strict=True)):
            return value
    with torch.inference_mode(False):  # what an evaluation makes, training may use later
        value = make()
    # The first tensor is the dictionary's key; a strong reference to it here would keep it alive for ever.
    references = tuple(_nothing if t is None else weakref.ref(t) for t in tensors[1:])
    entries.append((references, versions, key, value))
    del entries[:-_LONGEST]
    return value
