"""What is worked out once: from tensors, while they live and stay as they are, or from numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, MutableMapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["remember", "remember_numbers", "transforming"]

# first tensor -> {(key, others by id, versions of all): (weak references to the others, copies of what may change
# unnoticed, value, how to wait for it)}
_memory: MutableMapping[Tensor, dict[Hashable, tuple[Any, Any, Any, _Made | None]]] = WeakIdKeyDictionary()
_LONGEST = 32  # entries kept for one tensor, so that tensors made anew in every call do not pile up
_numbers: dict[tuple[Hashable, torch.device], tuple[Any, _Made | None]] = {}
_MOST_NUMBERS = 64

T = TypeVar("T")


def _nothing() -> None:
    """Stands for a reference to an absent tensor."""


def remember(tensors: tuple[Tensor, *tuple[Tensor | None, ...]], key: Hashable, make: Callable[[], T]) -> T:
    """``make()``, or what it returned when last called for these very tensors, unchanged since, and this key.

    A transform of ``torch.func`` gets a value of its own. On a GPU another stream than the one that made it waits for
    it. What is made while a CUDA graph is captured does not exist before the graph runs, and is not kept. Tensors whose
    memory is an array's or another process's, too, are compared with what they were.
    """
    first, *others = tensors
    if transforming():
        return make()
    ids: list[Hashable] = [key]
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
        references, copies, kept, made = known
        same = all(reference() is t for reference, t in zip(references, others, strict=True))  # ids are used again
        if same and _equal(_shared(tensors), copies):
            if made is not None:
                made.wait()
            return cast(T, kept)
    if first.is_cuda and torch.cuda.is_current_stream_capturing():
        return make()
    with torch.inference_mode(False):  # what an evaluation makes, training may use later
        value = make()
    # The first tensor is the dictionary's key; a strong reference to it here would keep it alive for ever.
    references = tuple(_nothing if t is None else weakref.ref(t) for t in others)
    copies = [t.clone() for t in _shared(tensors)]
    entries[found] = references, copies, value, _Made(first.device) if first.is_cuda else None
    if len(entries) > _LONGEST:
        del entries[next(iter(entries))]
    return value


def _shared(tensors: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Those on a CPU whose memory PyTorch does not own alone, so that a change of it raises no version."""
    return [t for t in tensors if t is not None and t.device.type == "cpu" and not t.untyped_storage().resizable()]


def _equal(tensors: list[Tensor], copies: list[Tensor]) -> bool:
    """False also where one has been shared since they were copied: others may have changed it."""
    return len(tensors) == len(copies) and all(map(torch.equal, tensors, copies))


def remember_numbers(key: Hashable, device: torch.device, make: Callable[[], T]) -> T:
    """``make()``, tensors on ``device`` that follow from ``key`` alone, or what it returned when last called for it.

    Waits and keeps as :func:`remember` does. A compiler gets tensors of its own, and so does a mode, as of fake ones.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None or transforming():
        return make()
    known = _numbers.get((key, device))
    if known is not None:
        kept, made = known
        if made is not None:
            made.wait()
        return cast(T, kept)
    on_gpu = device.type == "cuda"
    if on_gpu and torch.cuda.is_current_stream_capturing():
        return make()
    with torch.inference_mode(False):
        value = make()
    _numbers[key, device] = value, _Made(device) if on_gpu else None
    if len(_numbers) > _MOST_NUMBERS:
        del _numbers[next(iter(_numbers))]
    return value


def transforming() -> bool:
    """Whether a transform of ``torch.func`` is at work: tensors made now may be its own, of no use after it."""
    return torch._C._functorch.peek_interpreter_stack() is not None


class _Made:
    """The moment of a GPU's current stream at which something has been made."""

    def __init__(self, device: torch.device) -> None:
        self.device = torch.cuda.current_device() if device.index is None else device.index
        self.stream = torch._C._cuda_getCurrentRawStream(self.device)
        self.event = torch.cuda.current_stream(device).record_event()

    def wait(self) -> None:
        """Makes the current stream wait, if it is another one; a graph is captured after what it needs was made."""
        if torch._C._cuda_getCurrentRawStream(self.device) == self.stream:
            return
        if not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(self.device).wait_event(self.event)
