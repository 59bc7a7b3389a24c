"""Where contenders run, and what they have in common."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from fusion.kernels import BackendError, use_backend
from fusion.kernels._triton.device import interpreting

__all__ = ["DEVICE", "Step", "compiled", "installed", "ours"]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Step = Callable[[], Any]

_MODULES = {"faiss": "faiss", "vqp": "vector_quantize_pytorch"}


def installed(*contenders: str) -> tuple[str, ...]:
    """Those whose package is here and that run on ``DEVICE``."""
    if DEVICE == "cuda":
        contenders = tuple(c for c in contenders if c not in ("faiss", "digitize"))
    return tuple(c for c in contenders if c not in _MODULES or importlib.util.find_spec(_MODULES[c]))


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile of a peer, for one shape at a time: nobody times the generality that he does not use."""
    return torch.compile(function, dynamic=False, backend="eager" if interpreting() else "inductor")


def ours(contender: str, run: Step) -> Step:
    """``run`` on the backend that a contender such as ``fusion cuda`` names; ``fusion`` leaves the choice open.

    In Triton's interpreter an open choice is Triton, for the ops that have it.
    """
    first, _, backend = contender.partition(" ")
    if first != "fusion" or not (backend or interpreting()):
        return run

    def step() -> Any:
        try:
            with use_backend(backend or "triton"):
                return run()
        except BackendError:
            if backend:
                raise
            return run()

    return step
