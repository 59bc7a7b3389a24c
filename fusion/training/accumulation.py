"""How many tiles are computed at a time: the whole step, or equal parts of it whose gradients are accumulated."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any, Literal, get_args

from lightning import LightningModule

from fusion.data import TileDataset
from fusion.kernels.backends import chosen

from .files import readable_size
from .memory import MemoryEstimate, estimate_memory

__all__ = ["Memory", "check_settings", "largest_part", "part_size", "with_parts"]

Memory = Literal["refuse", "warn", "ignore", "accumulate"]

# What Lightning counts in batches where this package's user counts steps, and what makes no whole steps.
_COUNTED = ("limit_train_batches", "val_check_interval")
_REFUSED = ("overfit_batches", "fast_dev_run")


def check_settings(memory: str, memory_limit: float | None, trainer_arguments: dict[str, Any]) -> None:
    """Refuses settings that contradict each other or cannot be.

    Raises:
        ValueError: an unknown ``memory``, a limit that is no positive number, a limit that nothing would look at, or
            accumulation asked for twice.
    """
    known = get_args(Memory)
    if memory not in known:
        raise ValueError(f"fit: memory is {', '.join(map(repr, known[:-1]))} or {known[-1]!r}, not {memory!r}")
    if memory_limit is not None:
        number = isinstance(memory_limit, int | float) and not isinstance(memory_limit, bool)
        if not number or not 0 < memory_limit < math.inf:
            raise ValueError(f"fit: memory_limit is a positive number of GiB, or None, not {memory_limit!r}")
        if memory == "ignore":
            raise ValueError(
                f"fit: memory='ignore' estimates nothing, so memory_limit={memory_limit:g} would have no effect; "
                "leave one of them out"
            )
    if memory == "accumulate":
        _check_parts(trainer_arguments)


def _check_parts(trainer_arguments: dict[str, Any]) -> None:
    chosen_otherwise = trainer_arguments.get("accumulate_grad_batches", 1)
    if chosen_otherwise != 1:
        raise ValueError(
            "fit: a step in parts (memory='accumulate') sets accumulate_grad_batches itself, and "
            f"accumulate_grad_batches={chosen_otherwise} was given; leave one of them out"
        )
    for name in _REFUSED:
        if trainer_arguments.get(name):
            raise ValueError(
                f"fit: a step in parts (memory='accumulate') does not go with {name}; leave one of them out"
            )


def largest_part(batch_size: int, fits: int) -> int:
    """The largest divisor of ``batch_size`` that is at most ``fits``; 0 if not even one tile fits."""
    return max((size for size in range(1, batch_size + 1) if batch_size % size == 0 and size <= fits), default=0)


def part_size(
    module: LightningModule,
    train: TileDataset,
    batch_size: int,
    memory: Memory,
    limit: float | None,
    *,
    begun: int | None,
    device: str,
    precision: str,
    progress: bool,
) -> int:
    """Tiles to compute at a time, ``batch_size`` or a divisor of it.

    Args:
        limit: GiB that training may use; None for what is free.
        begun: the part size of the run that goes on, which stays what it was.

    Raises:
        ValueError: too little memory, and ``memory`` neither warns, ignores nor can cut the step small enough.
    """
    part = begun or batch_size
    if memory == "ignore":
        return part
    whole = estimate_memory(module, train, batch_size, precision=precision, device=device, limit=limit)
    if memory == "accumulate" and begun is None and whole.total > whole.available:
        part = largest_part(batch_size, whole.largest_batch) or batch_size
    estimate = dataclasses.replace(whole, batch_size=part)
    if progress:
        parts = "" if part == batch_size else f"; steps of {batch_size} tiles in {batch_size // part} parts of {part}"
        print(f"memory: {estimate}{parts}", flush=True)
        ran = [f"{op} on {backend}" for op, backend in chosen().items() if not op.endswith("_backward")]
        print(f"ops: {', '.join(ran) or 'none of our own'}", flush=True)  # the estimate ran a step
    if estimate.total > estimate.available:
        message = _too_much(estimate, batch_size, begun, limit)
        if memory != "warn":
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    return part


def _too_much(estimate: MemoryEstimate, batch_size: int, begun: int | None, limit: float | None) -> str:
    fits = estimate.largest_batch
    if begun is not None and begun < batch_size:
        advice = (
            f"The run was begun with steps of {batch_size} tiles in parts of {begun} and can only be continued with "
            "these: free memory, or start over with resume=False"
        )
    elif fits:
        part = largest_part(batch_size, fits)
        advice = f"batch_size={fits} fits, and memory='accumulate' in {batch_size // part} parts of {part}"
        if begun is not None:
            advice = f"batch_size={fits} fits, in a run of its own (another folder, or resume=False)"
    else:
        advice = "not even one tile fits: choose a smaller model"
    stated = ""
    if limit is not None:
        stated = f" (memory_limit={limit:g} GiB)"
        if estimate.available < int(limit * 2**30):
            stated = f" (memory_limit={limit:g} GiB, but only {readable_size(estimate.available)} are free)"
    return f"training would need {estimate}{stated}. {advice}; memory='warn' tries all the same"


def with_parts(trainer_arguments: dict[str, Any], batch_size: int, part: int, tiles: int) -> dict[str, Any]:
    """Arguments of ``lightning.Trainer`` that accumulate the parts of a step, and count in parts what counted in steps.

    Args:
        tiles: of the training set, for settings that are a share of an epoch's steps.

    Raises:
        ValueError: accumulation that the user chose, or settings that make no whole steps.
    """
    parts = batch_size // part
    if parts == 1:
        return trainer_arguments
    _check_parts(trainer_arguments)  # a run that was begun in parts goes on in parts, whatever `memory` is now
    out = trainer_arguments | {"accumulate_grad_batches": parts}
    for name in _COUNTED:
        if isinstance(value := trainer_arguments.get(name), int):
            out[name] = value * parts
    share = trainer_arguments.get("limit_train_batches")
    if isinstance(share, float) and share > 0:
        out["limit_train_batches"] = max(1, int(share * (tiles // batch_size))) * parts
    return out
