"""What every map is made by: a network over tiles, and the rasters that the tiles make."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Tile, TileBatch, TileDataset, collate
from ..data.files import DamagedFile
from .damage import listed
from .mosaic import Canvas, lay_out
from .precision import Chosen, autocast
from .progress import Progress

__all__ = ["Told", "device_of", "evaluating", "joined", "rasters", "stacked"]


_Read = tuple[list[bool], TileBatch | None, dict[str, str]]  # observed, those that were, what is wrong with others


class Told:
    """What a network says of tiles, a batch at a time.

    Args:
        say: from a batch of B tiles to (B, rows, columns, D), the cells that each tile is made of.
        cells: rows and columns.
        batch_size: tiles at a time; may be set later.
        progress: is told of every tile that was read.
        precision: may be set later.
        compiled: by ``torch.compile``, when the first batch comes.

    Raises:
        ValueError: ``batch_size`` below 1.

    Attributes:
        dates: of the longest series that was seen.
        damaged: by name of a tile whose files cannot be read, the reason; it counts as one without an observation.
        span: first and last date of the series, in ISO; None where they have no dates.
    """

    def __init__(
        self,
        say: Callable[[TileBatch], Tensor],
        cells: tuple[int, int],
        dataset: TileDataset,
        batch_size: int,
        workers: int,
        device: torch.device,
        progress: Progress | None = None,
        precision: Chosen = "float32",
        compiled: bool = False,
    ) -> None:
        if isinstance(batch_size, float) or batch_size < 1:
            raise ValueError(f"batch_size is 1 or more tiles at a time, not {batch_size!r}")
        self.say = say
        self._compiled = torch.compile(say, dynamic=True) if compiled else say  # batches differ in tiles and dates
        self.cells, self.dataset, self.compiled = cells, dataset, compiled
        self.batch_size, self.workers, self.device = batch_size, workers, device
        self.progress = progress or Progress(0, 0, shown=False)
        self.precision = precision
        self.dates = 0
        self.damaged: dict[str, str] = {}
        self.span: tuple[str, str] | None = None

    def of(self, tiles: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """For each tile that was observed its number within ``tiles`` and its (rows, columns, D) float32 cells."""
        for numbers, cells in self.batches(tiles):
            yield from zip(numbers.tolist(), cells, strict=True)

    def batches(self, tiles: Sequence[int] | np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The tiles that were observed, some at a time: their ascending numbers within ``tiles``, and their cells
        (B, rows, columns, D) in float32."""
        chosen = self.dataset.subset(tiles)
        first = 0
        for observed, batch, damaged in self._read(chosen):
            self.damaged |= damaged
            if batch is not None:
                self.dates = max([self.dates, *(v.shape[1] for v in batch.values.values() if v.ndim == 5)])
                yield from self._said(batch, first + np.flatnonzero(observed), chosen)
            first += len(observed)
            self.progress.add(len(observed))

    def answer(self, batch: TileBatch, *, measured: bool = False) -> Tensor:
        """(B, rows, columns, D) of B tiles that were observed, on the device.

        Args:
            measured: its time is taken, or its operators are watched: not compiled, and not in inference mode, in which
                a watcher is given some of them (``einsum``) before autocast has cast what they are made of.
        """
        mode: Any = torch.no_grad() if measured else torch.inference_mode()
        with mode, autocast(self.precision, self.device):
            return (self.say if measured else self._compiled)(batch.to(self.device))

    def _read(self, tiles: TileDataset) -> Iterator[_Read]:
        """The batches; the next one is read while this one is computed."""
        batches, count, size = _Batches(tiles), len(tiles), self.batch_size
        if self.workers or not tiles.read_ahead:
            yield from torch.utils.data.DataLoader(batches, size, collate_fn=_as_it_is, num_workers=self.workers)
            return
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(batches.__getitems__, range(min(size, count)))
            for start in range(size, count, size):
                following = range(start, min(start + size, count))
                found, ahead = ahead.result(), reader.submit(batches.__getitems__, following)
                yield found
            yield ahead.result()

    def nothing_observed(self, tiles: str, what: str = "map") -> str:
        """An error message, with what is wrong with tiles that cannot be read.

        Args:
            tiles: how many there are, and of what.
            what: there is none of then.
        """
        reasons = f"\n{listed(self.damaged)}" if self.damaged else ""
        return f"none of the {tiles} has an observation: there is no {what}{reasons}"

    def _said(
        self, batch: TileBatch, numbers: np.ndarray, tiles: TileDataset
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Of a batch; of a network that reads files itself tile by tile, if some of them are damaged."""
        try:
            cells = self.answer(batch).float().cpu().numpy()  # (B, rows, columns, D)
        except DamagedFile as error:
            if len(numbers) == 1:
                self.damaged[batch.names[0]] = str(error)
                return
            for number in numbers:
                _, single = tiles.gather([int(number)])
                if single is not None:
                    yield from self._said(single, number[None], tiles)
            return
        days = [dates[~np.isnat(dates)] for dates in map(batch.dates, batch.days)]
        for some in days:
            self.span = joined(self.span, [str(day) for day in (some.min(), some.max())] if some.size else ())
        yield numbers, cells


def joined(span: tuple[str, str] | None, dates: Sequence[str]) -> tuple[str, str] | None:
    """The first and the last of a span and of further ISO dates."""
    known = [*(span or ()), *dates]
    return (min(known), max(known)) if known else None


class _Batches(torch.utils.data.Dataset[Any]):
    """A data set of which a loader gets whole batches."""

    def __init__(self, tiles: TileDataset) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitems__(self, indices: Sequence[int]) -> _Read:
        """Which tiles were observed, these as a batch, and by name what is wrong with those that cannot be read."""
        try:
            return *self.tiles.gather(indices), {}
        except DamagedFile:
            return self._one_by_one(indices)

    def _one_by_one(self, indices: Sequence[int]) -> _Read:
        """A reader that reads neighbours together would read what is damaged between them."""
        kept, damaged = list[Tile](), dict[str, str]()
        observed = []
        for i in indices:
            try:
                tile = self.tiles[i]
            except DamagedFile as error:
                damaged[self.tiles.name(i)] = str(error)
                observed.append(False)
            else:
                observed.append(bool(tile.values))
                kept += [tile] if tile.values else []
        names = [modality.name for modality in self.tiles.modalities]
        return observed, collate(kept, names) if kept else None, damaged


def _as_it_is(batch: Any) -> Any:
    return batch


def stacked(told: Told) -> np.ndarray:
    """(N, rows, columns, D) of all tiles, NaN of those without an observation.

    Raises:
        ValueError: no tile has an observation.
    """
    count = len(told.dataset)
    values: np.ndarray | None = None
    for t, cells in told.of(range(count)):
        if values is None:
            values = np.full((count, *cells.shape), np.nan, dtype=np.float32)
        values[t] = cells
    if values is None:
        raise ValueError(told.nothing_observed(f"{count} tiles"))
    return values


def rasters(dataset: TileDataset, out: Path, cells: tuple[int, int]) -> list[tuple[Canvas, Path]]:
    """The rasters that the tiles of a data set make, and the file of each; none where no tile has a place.

    One raster is ``out`` with the suffix ``.tif``. Several lie in the folder ``out`` without its suffix, each named by
    its first tile, or by the scene of that where every scene makes one raster.

    Args:
        cells: rows and columns of the cells of a tile.

    Raises:
        ValueError: some tiles have a place and some have not, or one is rotated.
    """
    canvases = lay_out(dataset, cells)
    if len(canvases) == 1:
        return [(canvases[0], out.with_suffix(".tif"))]
    folder = out.with_suffix("")
    names = [dataset.name(canvas.tiles[0]) for canvas in canvases]
    scenes = [re.sub(r"_r\d+_c\d+$", "", name) for name in names]
    if len(set(scenes)) == len(scenes):
        names = scenes
    return [(canvas, folder / f"{_file_name(name)}.tif") for canvas, name in zip(canvases, names, strict=True)]


@contextlib.contextmanager
def evaluating(model: nn.Module, device: torch.device | str | None) -> Iterator[torch.device]:
    """The model in evaluation mode, on ``device`` or where it is; afterwards in the mode that it was in."""
    chosen = torch.device(device) if device is not None else device_of(model)
    was_training = model.training
    model.to(chosen).eval()
    try:
        yield chosen
    finally:
        model.train(was_training)


def device_of(model: nn.Module) -> torch.device:
    """Where the weights of a model are."""
    parameter = next(model.parameters(), None)
    return parameter.device if parameter is not None else torch.device("cpu")


def _file_name(tile: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tile)
