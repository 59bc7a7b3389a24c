"""What a map will cost, from some of its own tiles: time, memory, and its size on disk."""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..training.files import readable_size
from .blend import Told
from .cog import Sheet
from .mosaic import Canvas
from .progress import Progress, duration

__all__ = ["Estimate", "measured"]

_BATCHES = 4  # that are timed, after a first one that is not
_WRITES = 4  # times that every pixel is compressed or read: strips, blocks, the file with its overviews, the check
_OVERVIEWS = 4 / 3  # bytes of a file to those of its finest pixels


@dataclass(frozen=True)
class Estimate:
    """What a map will cost, told before it is made.

    Attributes:
        what: rows and columns, or how many rasters or tiles.
        dates: of the longest series that was seen; 0 of images alone.
        pixels: to be computed.
        rate: pixels a second.
        seconds: for all of them.
        memory: bytes of this process at most; processes that read tiles (workers) come on top.
        device_memory: bytes on a GPU; 0 without one.
        size: bytes of the files.
    """

    what: str
    dates: int
    pixels: int
    rate: float
    seconds: float
    memory: int
    device_memory: int
    size: int

    def __str__(self) -> str:
        dates = f", {self.dates} dates" if self.dates else ""
        device = f" and {readable_size(self.device_memory)} of the GPU" if self.device_memory else ""
        return (
            f"{self.what}{dates}: {self.pixels / 1e6:,.1f} million pixels at {self.rate:,.0f} a second: "
            f"{duration(self.seconds)}; memory {readable_size(self.memory)}{device}; map {readable_size(self.size)}"
        )


def measured(
    told: Told, canvases: Sequence[Canvas], sheets: Mapping[str, Sheet], height: int, *, left: float = 1.0
) -> Estimate:
    """Runs a few batches that are spread over the tiles, and counts what all of them will take.

    Args:
        canvases: the rasters; none for tiles without a place.
        height: rows of a strip.
        left: share of the pixels that an earlier run has not computed.
    """
    count, area = len(told.dataset), told.cells[0] * told.cells[1]
    pixels = sum(int(np.prod(canvas.shape)) for canvas in canvases) or count * area
    clock, usual = _Clock(), told.progress
    told.progress = clock
    try:
        said = [cells for _, cells in told.of(_spread(count, told.batch_size, told.workers))]
    finally:
        told.progress = usual
    tiles_a_second = clock.rate()
    started, stored = time.perf_counter(), 0
    for cells in said:
        stored += sum(len(zlib.compress(sheet.store(cells).tobytes())) for sheet in sheets.values())
    a_pixel = 1 / max(len(said) * area, 1)
    writing = (time.perf_counter() - started) * a_pixel * _WRITES  # seconds a pixel
    seconds = left * (count / tiles_a_second + pixels * writing)
    depth = said[0].shape[-1] if said else 1
    window = max((_window_bytes(canvas, told.cells[0], height, depth) for canvas in canvases), default=pixels * 4)
    return Estimate(
        _what(canvases, count, told.cells),
        told.dates,
        round(left * pixels),
        left * pixels / max(seconds, 1e-9),
        seconds,
        _peak_memory() + window,
        torch.cuda.max_memory_allocated(told.device) if told.device.type == "cuda" else 0,
        int(stored * a_pixel * pixels * (_OVERVIEWS if canvases else 1)),
    )


class _Clock(Progress):
    """When each batch was done."""

    def __init__(self) -> None:
        super().__init__(0, 0, shown=False)
        self.times, self.tiles_at = [time.perf_counter()], [0]

    def add(self, tiles: int) -> None:
        self.times.append(time.perf_counter())
        self.tiles_at.append(self.tiles_at[-1] + tiles)

    def rate(self) -> float:
        """Tiles a second, without the first batch, in which files are opened and memory is taken."""
        first = 1 if len(self.times) > 2 else 0
        return (self.tiles_at[-1] - self.tiles_at[first]) / max(self.times[-1] - self.times[first], 1e-9)


def _spread(tiles: int, batch_size: int, workers: int) -> np.ndarray:
    """Numbers of the tiles of some whole batches, evenly spaced: borders without data and what lies within.

    More of them with worker processes, which have the first ones ready before the time is taken.
    """
    batches = -(-tiles // batch_size)
    wanted = min(batches, 1 + _BATCHES * max(1, workers))
    chosen = (np.arange(wanted) * batches + batches // 2) // wanted
    numbers = (chosen[:, None] * batch_size + np.arange(batch_size)).ravel()
    return numbers[numbers < tiles]


def _window_bytes(canvas: Canvas, rows: int, height: int, depth: int) -> int:
    """Sums of the rows that tiles still come to, and copies of a strip while it is stored."""
    return 4 * canvas.shape[1] * ((height + rows) * (depth + 3) + 4 * height * depth)


def _peak_memory() -> int:
    """Bytes of this process at its peak; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _what(canvases: Sequence[Canvas], tiles: int, cells: tuple[int, int]) -> str:
    if not canvases:
        return f"{tiles:,} tiles of {cells[0]} x {cells[1]} pixels"
    if len(canvases) > 1:
        return f"{len(canvases):,} rasters"
    return f"{canvases[0].shape[0]:,} x {canvases[0].shape[1]:,} pixels"
