"""In which floating-point format a map is made faster without harm, measured on some of its tiles."""

from __future__ import annotations

import statistics
import time

import torch

from ..data import TileBatch
from ..data.files import DamagedFile
from ..data.spacing import evenly_spaced
from ..training.trial import Trial
from .blend import Told
from .precision import Chosen

__all__ = ["try_on", "try_on_map"]

_BATCHES = 32  # that a map must have for a trial, which takes as long as three of them, to be worth its time
_PART = 4  # a trial has the fourth part of a batch
_TRIED = 3  # times in either format, after a first one that compiles and takes memory
_TOLERANCE = 0.02  # of the root mean square of the values
_PLACES = 8  # of a map that are tried for tiles that can be read


def try_on(told: Told, batch: TileBatch) -> Trial:
    """What the network says of some tiles in either format, in turns; sets ``told.precision`` to the better one."""
    seconds: tuple[list[float], list[float]] = ([], [])
    formats: tuple[Chosen, Chosen] = ("float32", "bfloat16")
    answers = [torch.empty(0), torch.empty(0)]
    for number in range(1 + _TRIED):
        for lower in (False, True) if number % 2 else (True, False):
            told.precision, started = formats[lower], time.perf_counter()
            answers[lower] = told.answer(batch, measured=True).float()
            if number:
                seconds[lower].append(time.perf_counter() - started)
    exact, rounded = (answer.nan_to_num() for answer in answers)
    apart = float((exact - rounded).norm() / exact.norm().clamp_min(torch.finfo(torch.float32).tiny))
    trial = Trial(
        (statistics.median(seconds[0]), statistics.median(seconds[1])),
        apart,
        calculation=f"a batch of {len(batch)} tiles",
        result="the result",
        tolerance=_TOLERANCE,
    )
    told.precision = formats[trial.lower]
    return trial


def try_on_map(told: Told, batch_size: int) -> Chosen:
    """The format in which a map is faster, of some of its tiles; float32 for maps of a few batches.

    Args:
        batch_size: tiles at a time that the map will be made with, about.
    """
    count = len(told.dataset)
    if count < _BATCHES * batch_size:
        return "float32"
    some = max(1, batch_size // _PART)
    for first in evenly_spaced(count - some + 1, _PLACES).tolist():
        try:
            _, batch = told.dataset.gather(range(first, first + some))
        except DamagedFile:  # listed with the map
            continue
        if batch is not None:
            trial = try_on(told, batch)
            if told.progress.shown:
                print(f"precision: {trial}", flush=True)
            return told.precision
    return "float32"
