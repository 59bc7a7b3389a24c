"""In which floating-point format training is faster without harm, measured on a few of its own steps."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor

from fusion.data import TileBatch, TileDataset

from ..layers.autocast import bfloat16_unavailable
from .loading import training_loader
from .memory import unlogged
from .trial import Trial

__all__ = ["Trial", "try_precisions"]

_STEPS = 10


def try_precisions(
    module: LightningModule, train: TileDataset, batch_size: int, *, device: str, seed: int = 0
) -> Trial:
    """Ten steps, forward and backward, of a copy of ``module`` in either format, in turns.

    Nothing of ``module`` changes, nor the global random state.

    Raises:
        ValueError: this is one of several processes, which would not measure alike.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("fit: precision='auto' is measured by one process; of several, each would choose for itself")
    if why := bfloat16_unavailable(device):
        return Trial(unavailable=why)
    seconds: tuple[list[float], list[float]] = ([], [])
    losses: tuple[list[float], list[float]] = ([], [])
    devices = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices), unlogged():
        probe = copy.deepcopy(module).to(device).train()
        probe.trainer = None
        for number, batch in enumerate(_batches(train, batch_size, seed)):
            for lower in (False, True) if number % 2 else (True, False):
                torch.manual_seed(number)
                taken, loss = _step(probe, batch.to(torch.device(device)), device, lower)
                if number:  # the first one compiles and takes memory
                    seconds[lower].append(taken)
                    losses[lower].append(loss)
    mean = statistics.fmean(map(abs, losses[0])) or 1.0
    apart = statistics.fmean(abs(a - b) for a, b in zip(*losses, strict=True)) / mean
    return Trial((statistics.median(seconds[0]), statistics.median(seconds[1])), apart)


def _batches(train: TileDataset, batch_size: int, seed: int) -> Iterator[TileBatch]:
    """One more than are counted, of the random views of training; again from the beginning where it has fewer."""
    loader = training_loader(train, batch_size, seed=seed)
    epochs = itertools.chain.from_iterable(itertools.repeat(loader))
    yield from itertools.islice(cast("Iterator[TileBatch]", epochs), 1 + _STEPS)


def _step(module: LightningModule, batch: TileBatch, device: str, lower: bool) -> tuple[float, float]:
    """Seconds and loss."""
    _wait(device)
    started = time.perf_counter()
    with torch.autocast(device, torch.bfloat16) if lower else nullcontext():
        output: Any = module.training_step(batch, 0)
    loss: Tensor = output["loss"] if isinstance(output, dict) else output
    if loss.requires_grad:  # a loss of nothing is refused in words when training begins
        loss.backward()
    _wait(device)
    taken = time.perf_counter() - started
    for parameter in module.parameters():
        parameter.grad = None
    return taken, float(loss.detach())


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
