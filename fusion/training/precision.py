"""In which floating-point format a network is faster without harm, measured; of training, on a few of its own steps."""

from __future__ import annotations

import copy
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import LightningModule
from torch import Tensor

from fusion.data import TileBatch, TileDataset

from ..layers.autocast import bfloat16_unavailable
from .loading import training_loader
from .memory import unlogged

__all__ = ["Trial", "try_precisions"]

_STEPS = 10
_FASTER = 0.9  # of the time in float32: less is not worth the digits


@dataclass(frozen=True)
class Trial:
    """The same calculations, e.g. steps of the same weights, tiles and random numbers, in float32 and in bfloat16.

    Attributes:
        seconds: of one, the median: in float32, in bfloat16; 0 where none was tried.
        difference: of the result, over that of float32. Of training: the mean over the steps of the absolute difference
            of the loss over the float32 mean.
        unavailable: why bfloat16 was not tried; empty where it was.
        calculation, result: what they are, in words.
        tolerance: the largest difference that is allowed.
    """

    seconds: tuple[float, float] = (0.0, 0.0)
    difference: float = 0.0
    unavailable: str = ""
    calculation: str = "a step"
    result: str = "the loss"
    tolerance: float = 0.01

    @property
    def lower(self) -> bool:
        """Whether bfloat16 is faster without harm."""
        return self.seconds[1] < _FASTER * self.seconds[0] and self.difference <= self.tolerance

    @property
    def precision(self) -> str:
        """As ``lightning.Trainer`` names it."""
        return "bf16-mixed" if self.lower else "32-true"

    def __str__(self) -> str:
        if self.unavailable:
            return f"float32: {self.unavailable}"
        own, other = (f"{seconds:.3g} s" for seconds in self.seconds)
        return (
            f"{'bfloat16' if self.lower else 'float32'}: {self.calculation} takes {other} in bfloat16, {own} in "
            f"float32; {self.result} differs by {self.difference:.2%}, {self.tolerance:.0%} at most are allowed"
        )


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
