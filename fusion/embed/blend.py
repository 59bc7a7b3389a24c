"""What every map is made by: a network over tiles, and the average where tiles overlap, in a file and not in memory."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Tile, TileBatch, TileDataset, collate
from .mosaic import Canvas, lay_out

__all__ = ["Blend", "Told", "blended", "device_of", "evaluating", "rasters", "stacked"]


class Told:
    """What a network says of tiles, a batch at a time.

    Args:
        say: from a batch of B tiles to (B, rows, columns, D), the cells that each tile is made of.
        cells: rows and columns.
    """

    def __init__(
        self,
        say: Callable[[TileBatch], Tensor],
        cells: tuple[int, int],
        dataset: TileDataset,
        batch_size: int,
        workers: int,
        device: torch.device,
    ) -> None:
        self.say, self.cells, self.dataset = say, cells, dataset
        self.batch_size, self.workers, self.device = batch_size, workers, device

    def of(self, tiles: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """For each tile that was observed its number within ``tiles`` and its (rows, columns, D) float32 cells."""
        names = [m.name for m in self.dataset.modalities]

        def gather(members: list[Tile]) -> tuple[list[bool], TileBatch | None]:
            observed = [bool(tile.values) for tile in members]
            kept = [tile for tile, seen in zip(members, observed, strict=True) if seen]
            return observed, collate(kept, names) if kept else None

        loader = torch.utils.data.DataLoader(
            self.dataset.subset(tiles), self.batch_size, collate_fn=gather, num_workers=self.workers
        )
        first = 0
        for observed, batch in loader:
            if batch is not None:
                with torch.inference_mode():
                    cells = self.say(batch.to(self.device)).float().cpu().numpy()  # (B, rows, columns, D)
                yield from zip((first + np.flatnonzero(observed)).tolist(), cells, strict=True)
            first += len(observed)


@dataclass(frozen=True)
class Blend:
    """One raster of cells.

    Attributes:
        values: (rows, columns, D) float32, NaN where no tile says anything. They lie in a file that goes with the
            ``with`` block.
        owner: (rows, columns) number of the tile whose weight is largest, from 1; 0 where there is none.
    """

    values: np.ndarray
    owner: np.ndarray


@contextlib.contextmanager
def blended(told: Told, canvas: Canvas, path: Path) -> Iterator[Blend]:
    """The cells of all tiles of a canvas; where tiles overlap, their average with a weight that falls off to the border
    of each tile.

    Args:
        path: of the raster to come, beside which the sums are kept: a map may be larger than memory.

    Raises:
        ValueError: no tile has an observation.
    """
    rows, columns = told.cells
    weight = _taper(rows)[:, None] * _taper(columns)  # (rows, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:

        def scratch(kind: type, *shape: int) -> np.ndarray:
            file = files.enter_context(tempfile.TemporaryFile(dir=path.parent))
            return np.memmap(file, kind, "w+", shape=shape)

        owner, strongest, total = (scratch(kind, *canvas.shape) for kind in (np.int32, np.float32, np.float32))
        sums: np.ndarray | None = None
        for t, cells in told.of(canvas.tiles):  # cells (rows, columns, D)
            if sums is None:
                sums = scratch(np.float32, *canvas.shape, cells.shape[-1])
            top, left = canvas.corners[t]
            here = np.s_[top : top + rows, left : left + columns]
            sums[here] += weight[..., None] * (cells[::-1] if canvas.flipped else cells)
            total[here] += weight
            owner[here] = np.where(weight > strongest[here], t + 1, owner[here])
            strongest[here] = np.maximum(weight, strongest[here])
        if sums is None:
            raise ValueError(f"none of the {len(canvas.tiles)} tiles of {path} has an observation: there is no map")
        for row in range(canvas.shape[0]):
            with np.errstate(invalid="ignore"):
                sums[row] /= total[row, :, None]  # 0 / 0 = NaN = no data
        yield Blend(sums, owner)


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
        raise ValueError(f"none of the {count} tiles has an observation: there is no map")
    return values


def rasters(dataset: TileDataset, out: Path, cells: tuple[int, int]) -> list[tuple[Canvas, Path]]:
    """The rasters that the tiles of a data set make, and the file of each; none where no tile has a place.

    One raster is ``out`` with the suffix ``.tif``. Several lie in the folder ``out`` without its suffix, each named by
    its first tile.

    Args:
        cells: rows and columns of the cells of a tile.

    Raises:
        ValueError: some tiles have a place and some have not, or one is rotated.
    """
    places = dataset.places()
    unplaced = [name for name, place in zip(dataset.names, places, strict=True) if place is None]
    if len(unplaced) == len(places):
        return []
    if unplaced:
        raise ValueError(
            f"{len(unplaced)} of {len(places)} tiles have no place, e.g. {unplaced[0]}; map them separately "
            "(dataset.subset)"
        )
    known = [place for place in places if place is not None]
    canvases = lay_out(known, dataset.grid, dataset.modalities, dataset.names, cells)
    if len(canvases) == 1:
        return [(canvases[0], out.with_suffix(".tif"))]
    folder = out.with_suffix("")
    return [(canvas, folder / f"{_file_name(dataset.names[canvas.tiles[0]])}.tif") for canvas in canvases]


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


def _taper(length: int) -> np.ndarray:
    """Weights that fall off linearly to the borders and never reach 0: 1, 2, 3, 3, 2, 1."""
    k = np.arange(length)
    return np.minimum(k + 1, length - k).astype(np.float32)


def _file_name(tile: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in tile)
