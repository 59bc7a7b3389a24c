"""What a launch needs to know of its GPU, without importing Triton: which row of a tile table, how many programs fit.

Under ``TRITON_INTERPRET=1`` kernels run on CPU tensors, by the same code and the same products as on a GPU; only the
tiles are small.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "MEASURED",
    "OLDEST",
    "SHARED_MEMORY",
    "Tile",
    "architecture",
    "interpreting",
    "multiprocessors",
    "refuses_device",
    "row",
    "shared_memory",
    "tiles_of",
]

# Bytes of shared memory that one program may have, by compute capability. Tiles are checked against these ahead of
# time (tests/kernels/aot.py).
SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
# GPUs that the kernels' times were measured on and their tiles chosen by, as torch names them.
MEASURED = ("NVIDIA H100 80GB HBM3",)
# Whose tiles an architecture takes where a table has none of its own: the same shared memory and tensor cores alike.
_ALIKE = {80: 86, 89: 86, 120: 86, 100: 90}
OLDEST = (8, 0)  # bfloat16 products and asynchronous copies

T = TypeVar("T")


@dataclass(frozen=True)
class Tile:
    """What one program works on at a time, and with how many warps and pipeline stages."""

    rows: int
    columns: int
    warps: int
    stages: int
    depth: int = 0  # values of a row and a column that are multiplied at once; 0: all


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter (which Triton decides when it is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def architecture(device: torch.device) -> int:
    """The compute capability, as 86, whose tiles ``device`` takes; the interpreter takes those of sm_86."""
    return _architecture(device.index or 0) if device.type == "cuda" else 86


@functools.cache
def _architecture(index: int) -> int:
    return nearest(torch.cuda.get_device_capability(index), shared_memory(index))


def shared_memory(index: int) -> int:
    """Bytes that one program may have on GPU ``index``."""
    properties: Any = torch.cuda.get_device_properties(index)  # whose stub knows less than it has
    return int(properties.shared_memory_per_block_optin)


def nearest(capability: tuple[int, int], shared_memory: int) -> int:
    """The listed architecture for a GPU: its own, else the newest of those that have no more shared memory than it.

    ``capability`` as torch gives it, (8, 6); ``shared_memory`` in bytes a program.
    """
    own = 10 * capability[0] + capability[1]
    if own in SHARED_MEMORY:
        return own
    fitting = {a: size for a, size in SHARED_MEMORY.items() if a <= own and size <= shared_memory}
    return max(fitting, key=lambda a: (fitting[a], a), default=86)


def tiles_of(architecture: int) -> int:
    """The architecture whose tiles another one takes: 86 or 90."""
    return _ALIKE.get(architecture, architecture)


def row(table: Mapping[tuple[Any, ...], T], architecture: int, *rest: Any) -> T:
    """The entry ``(architecture, *rest)`` of a tile table, that of the architecture most like it, or that of 86.

    Raises:
        KeyError: there is none for ``rest``.
    """
    for own in (architecture, tiles_of(architecture)):
        if (entry := table.get((own, *rest))) is not None:
            return entry
    return table[(86, *rest)]


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors programs are spread over; 4 in the interpreter, so that small cases are split too."""
    return _multiprocessors(device.index or 0) if device.type == "cuda" else 4


@functools.cache
def _multiprocessors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def refuses_device(x: Tensor) -> str | None:
    """Why Triton kernels cannot run on the device of ``x``, or None."""
    return _refuses(x.device.index or 0) if x.is_cuda else None


@functools.cache
def _refuses(index: int) -> str | None:
    major, minor = torch.cuda.get_device_capability(index)
    if (major, minor) >= OLDEST:
        return None
    name = torch.cuda.get_device_name(index)
    return f"needs a GPU of compute capability 8.0 or above; {name} has {major}.{minor}"
