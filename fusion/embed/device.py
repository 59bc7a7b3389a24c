"""Where a model runs."""

from __future__ import annotations

import sys

import torch

__all__ = ["choose_device", "require_cpu"]


def choose_device(asked: str) -> torch.device:
    """``"auto"``: a GPU if there is one, else the CPU. Of several GPUs, workers of Dask that see all of them take one
    each, by their numbers.

    Raises:
        ValueError: no device, or a GPU that is not there.
    """
    if asked != "auto":
        try:
            device = torch.device(asked)
        except RuntimeError as error:
            raise ValueError(f"device is auto, cpu, cuda, cuda:1, ..., not {asked!r}") from error
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if device.type == "cuda" and (device.index or 0) >= count:
            raise ValueError(f"device {asked}: torch can use {count} GPUs here; `fusion doctor` says why, or take cpu")
        return device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _worker() % torch.cuda.device_count())


def require_cpu(run: object, device: str, precision: str, compile_model: bool) -> None:
    """What a context-aware model runs as, whose encoder reads windows of cubes in the processor's memory.

    Raises:
        ValueError: another device or precision was asked for, or that it be compiled.
    """
    asked = {
        "device": (device, device not in ("auto", "cpu")),
        "precision": (precision, precision not in ("auto", "float32")),
        "compile_model": (compile_model, compile_model),
    }
    wrong = [f"{name}={value!r}" for name, (value, refused) in asked.items() if refused]
    if wrong:
        raise ValueError(
            f"{run} is a context-aware model, which runs on the CPU in float32 as it is; leave {', '.join(wrong)} out"
        )


def _worker() -> int:
    """The number of this worker of Dask; 0 where this process is none, or has a name that is no number."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return 0
    try:
        return int(distributed.get_worker().name)
    except (ValueError, TypeError):  # no worker, or one of another name
        return 0
