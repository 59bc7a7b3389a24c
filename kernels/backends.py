"""Which backend runs an op, and why the others do not.

Every operator has up to four implementations, registered with :func:`implement`:

* ``cpp``    compiled C++ for the CPU (``csrc/cpu``),
* ``triton`` GPU kernels in Triton (also runs on the CPU under ``TRITON_INTERPRET=1``, for tests),
* ``cuda``   GPU kernels in CUDA C++ (``csrc/cuda``),
* ``eager``  chunked PyTorch, correct everywhere.

Statistics that a forward pass saves mean the same in every backend, so forward and backward may run in
different ones. The choice is made when the operator runs, outside anything ``torch.compile`` traces.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ._triton.device import interpreting

__all__ = ["BackendError", "backends", "choose", "chosen", "implement", "requested_backend", "use_backend"]

logger = logging.getLogger("fusion")

NAMES = ("cpp", "triton", "cuda", "eager")
# Tried in this order when nothing is requested.
_AUTOMATIC = {"cpu": ("cpp", "eager"), "cuda": ("triton", "cuda", "eager")}
TRITON_TESTED = (3, 6), (3, 9)  # the oldest that has what the kernels use, and the newest they were compiled with

Reason = str | None  # why not; None where nothing stands in the way


class BackendError(RuntimeError):
    """A backend was asked for that cannot run this call; the message has one line for every backend."""


@dataclass(frozen=True)
class Implementation:
    """One backend's code for one operator."""

    run: Callable[..., Any]
    refuses: Callable[..., Reason]  # cannot run this call
    declines: Callable[..., Reason]  # could, but another backend is faster: only the automatic choice asks
    package: str  # of the function


_implementations: dict[str, dict[str, Implementation]] = {}
# Process-wide and not a context variable: autograd runs CUDA backward passes in threads of its own.
_requests: list[str] = []
_chosen: dict[str, str] = {}


def _no_reason(*args: Any) -> Reason:
    return None


def implement(
    op: str,
    backend: str,
    *,
    refuses: Callable[..., Reason] = _no_reason,
    declines: Callable[..., Reason] = _no_reason,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: registers a function as ``backend``'s implementation of operator ``op``.

    ``refuses`` and ``declines`` get the operator's arguments and return a reason or None.
    """
    if backend not in NAMES:
        raise ValueError(f"implement: unknown backend {backend!r}; one of {', '.join(NAMES)}")

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        package = run.__module__.split(".")[-2]
        _implementations.setdefault(op, {})[backend] = Implementation(run, refuses, declines, package)
        return run

    return register


def requested_backend() -> str | None:
    """The backend asked for by ``use_backend`` or ``FUSION_BACKEND``, or None for the automatic choice."""
    name = _requests[-1] if _requests else os.environ.get("FUSION_BACKEND", "")
    if name in ("", "auto"):
        return None
    if name not in NAMES:
        raise BackendError(f"FUSION_BACKEND={name!r} is not a backend; one of auto, {', '.join(NAMES)}")
    return name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Runs every op inside the block, in every thread of the process, on backend ``name``.

    ``name`` is ``"cpp"``, ``"triton"``, ``"cuda"``, ``"eager"`` or ``"auto"``. An op that cannot run there
    raises :class:`BackendError`, which says why for each backend.
    """
    if name not in (*NAMES, "auto"):
        raise ValueError(f"use_backend: unknown backend {name!r}; one of auto, {', '.join(NAMES)}")
    _requests.append(name)
    try:
        yield
    finally:
        _requests.pop()


@functools.cache
def unavailable(backend: str, package: str | None = None) -> Reason:
    """Why ``backend`` cannot run on this machine at all, or None. Compiles the library it needs.

    Args:
        package: of the operators that are asked for; None for all.
    """
    if backend in ("cpp", "cuda"):
        from . import build

        if backend == "cuda" and not torch.cuda.is_available():
            return "no CUDA device is visible to torch"
        try:
            build.load("cuda" if backend == "cuda" else package or "cpu")
        except build.BuildError as error:
            return str(error)
    elif backend == "triton":
        try:
            import triton
        except ImportError as error:
            return f"triton cannot be imported ({error}); it comes with CUDA builds of torch"
        if not (torch.cuda.is_available() or interpreting()):
            return "no CUDA device is visible to torch"
        if _version(triton.__version__) < TRITON_TESTED[0]:
            oldest = ".".join(map(str, TRITON_TESTED[0]))
            return f"triton {triton.__version__} is older than {oldest}, which comes with torch 2.11; upgrade torch"
    return None


@functools.cache
def untested(backend: str) -> Reason:
    """Why the automatic choice passes ``backend`` over though it may well run: a Triton newer than any tested."""
    if backend != "triton" or unavailable("triton"):
        return None
    import triton

    if _version(triton.__version__) <= TRITON_TESTED[1]:
        return None
    newest = ".".join(map(str, TRITON_TESTED[1]))
    return (
        f"triton {triton.__version__} is newer than {newest}, the newest these kernels were tested with; "
        "FUSION_BACKEND=triton runs them all the same"
    )


def _version(text: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(part) for part in text.split(".")[:2])


def _wrong_device(backend: str, device: str) -> Reason:
    if backend == "eager" or (backend == "triton" and interpreting()):
        return None
    serves = "cpu" if backend == "cpp" else "cuda"
    return None if device == serves else f"runs on {serves} tensors"


def _obstacle(op: str, backend: str, device: str, args: tuple[Any, ...]) -> Reason:
    implementation = _implementations[op].get(backend)
    if implementation is None:
        return "not implemented for this op"
    return (
        _wrong_device(backend, device) or implementation.refuses(*args) or unavailable(backend, implementation.package)
    )


def choose(op: str, *args: Any) -> Callable[..., Any]:
    """The implementation of ``op`` that will run on ``args``, by request or automatically.

    Raises:
        BackendError: the requested backend cannot run this call.
    """
    device = next(a for a in args if isinstance(a, torch.Tensor)).device.type
    request = requested_backend()
    if request is not None:
        reason = _obstacle(op, request, device, args)
        if reason is None:
            _chosen[op] = request
            return _implementations[op][request].run
        raise BackendError(_refusal(op, request, device, args))
    for backend in _AUTOMATIC.get(device, ("eager",)):
        if backend not in _implementations[op]:
            continue
        implementation = _implementations[op][backend]
        if implementation.declines(*args):
            continue
        reason = _obstacle(op, backend, device, args) or untested(backend)
        if reason is None:
            _chosen[op] = backend
            return implementation.run
        _announce_fallback(op, backend, reason)
    raise BackendError(_refusal(op, "auto", device, args))


def _refusal(op: str, request: str, device: str, args: tuple[Any, ...]) -> str:
    given = ", ".join(f"{tuple(a.shape)} {a.dtype}" for a in args if isinstance(a, torch.Tensor))
    lines = [f"{op}: backend {request!r} cannot run this call ({given} on {device})"]
    for backend in NAMES:
        lines.append(f"  {backend:7}: {_obstacle(op, backend, device, args) or 'available'}")
    lines.append("choose another with fusion.kernels.use_backend(...) or FUSION_BACKEND=auto")
    return "\n".join(lines)


def chosen() -> dict[str, str]:
    """By operator, the backend that ran it last in this process."""
    return dict(_chosen)


@functools.cache
def _announce_fallback(op: str, backend: str, reason: str) -> None:
    logger.warning("fusion: %s does not use %s: %s", op, backend, reason)


def backends() -> list[dict[str, str]]:
    """One row for every op and backend: ``op``, ``backend``, ``available`` (yes/no) and ``reason``."""
    rows = []
    for op in sorted(_implementations):
        for backend in NAMES:
            own = _implementations[op].get(backend)
            reason = unavailable(backend, own.package) if own else "not implemented for this op"
            available = "no" if reason else "yes"
            rows.append({"op": op, "backend": backend, "available": available, "reason": reason or ""})
    return rows
