"""Maps of what a fine-tuned model predicts: of every pixel, or of every tile."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from .. import __version__
from ..data import TileDataset
from .blend import Told, evaluating, rasters
from .choices import Choices
from .cog import Sheet, write_cog
from .estimate import Estimate, measured
from .formats.temporary import replacing, sweep
from .items import write_prediction_item
from .map import UNPLACED, describe
from .mosaic import Canvas
from .precision import Precision
from .predicted import PredictedMap
from .predictor import Predictor, asked, cells_of, identity, require_map
from .preview import write_preview, write_styles
from .progress import Progress
from .room import tells_a_full_disk
from .shared import in_turn, missing_strips
from .sheets import sheets_of
from .strips import strip_count
from .working import WorkingFolder, WorkingRaster, identity_of

__all__ = ["PredictedMap", "Predictor", "estimate_map", "predict_map"]

_LOWEST, _HIGHEST = 64, 256  # rows of a strip
_FEW = 20  # batches: of fewer, measuring some first would take longer than it tells


@tells_a_full_disk
def predict_map(
    module: Predictor,
    dataset: TileDataset,
    out: str | Path,
    *,
    probabilities: bool = False,
    entropy: bool = False,
    batch_size: int | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    compile_model: bool = False,
    restart: bool = False,
    progress: bool = False,
) -> list[PredictedMap]:
    """Writes what a fine-tuned model says of every tile as cloud-optimised GeoTIFF, north up.

    A model of maps writes the pixels of its label maps. Where tiles overlap, probabilities (or the quantity) are
    averaged with a weight that falls off to the border of the tile, and the class is that of the average: no border of
    a tile is left to be seen. A model of whole tiles writes a pixel a tile; where its tiles overlap by parts of a tile,
    a pixel a patch, the average over the tiles around it.

    Classes are bytes, the index in ``module.classes`` and 255 for no data, with a colour each and their names. A model
    of several classes a tile writes a band of 0 and 1 for each. Quantities are float32 and NaN; of a model with an
    interval there are three bands of each: the value, and the lower and the upper end of the interval. A tile without
    any observation is no data, and so is one whose files cannot be read, which the result lists. Beside each raster lie
    its style for QGIS (``.qml``) and its STAC item (``.json``), beside the map a picture of it with its legend
    (``.png``). Several rasters and unplaced tiles are written as by :func:`~fusion.embed.embed_map`; an NPZ holds
    ``prediction`` (N, bands, rows, columns), ``names``, ``bands``, ``tags`` (JSON) and, if asked for, ``probabilities``
    and ``entropy``.

    A raster is computed from north to south in strips of rows; two rows of tiles are in memory, whatever its size.
    Finished strips lie in the folder ``<out>.partial`` until the map is whole. Stopped at any moment and called again
    with the same model, data and options, it goes on with what is missing and writes the bytes that it would have
    written without the interruption (on the same machine with the same number of threads). Several processes may do the
    same call at once, see :func:`~fusion.embed.embed_map`.

    Args:
        module: fine-tuned, e.g. by :func:`fusion.training.load_finetuned`.
        dataset: with or without labels, which are not looked at.
        probabilities: write them too, to ``<out>_probabilities.tif``, a band a class: bytes v that stand for v / 254,
            which is the scale of the bands, and 255 for no data.
        entropy: write how uncertain the classes are, to ``<out>_entropy.tif``: the Shannon entropy of the probabilities
            as a part of the largest that K classes can have, from 0 (one is certain) to 1 (all are alike), in bytes as
            the probabilities. Where several classes may be present, the mean of that of each.
        batch_size: tiles at a time; by default some 2,000 patches, or fewer where a measurement says that these would
            take over half of the free memory. A call that goes on with an earlier one takes that one's.
        device: where the model runs; by default where it is.
        precision: see :func:`fusion.embed.embed_map`.
        compile_model: by ``torch.compile``: the first batch takes about a minute, others less than without; last digits
            differ.
        restart: begin anew, whatever an earlier call left.
        progress: say how far it is.

    Raises:
        TypeError: a model without a head for labels.
        ValueError: data whose bands, units or grid are not the model's, tiles some of which have a place and some not,
            rotated tiles, no tile with an observation, probabilities of a quantity, more than 255 classes, the
            beginning of another map in the way.
        RuntimeError: a file cannot be written; one that was there is untouched.
    """
    settings = _Settings(probabilities, entropy, Choices(precision, batch_size), workers, device, compile_model)
    with _task(module, dataset, out, settings) as task:
        told, choices = task.told, settings.choices
        told.progress = Progress(len(dataset), task.pixels, shown=progress)
        if not task.targets:
            choices.take(told)
            if progress and task.many:
                print(task.estimate(), flush=True)
            return [_write_unplaced(told, Path(out).with_suffix(".npz"), task.sheets, module.classes)]
        job = task.job() | choices.known(told)
        folder = WorkingFolder(task.working, job, choices.to_measure(told), restart=restart)
        choices.take(told, folder.job)
        parts = [folder.raster(str(number), path) for number, (_, path) in enumerate(task.targets)]
        if progress and task.many and task.left(parts):
            print(task.estimate(task.left(parts)), flush=True)
        written = in_turn(
            zip(task.targets, parts, strict=True),
            lambda one, wait: _write_canvas(task, *one[0], one[1], folder, wait),
        )
        folder.remove()
        told.progress.end()
    return written


def estimate_map(
    module: Predictor,
    dataset: TileDataset,
    out: str | Path,
    *,
    probabilities: bool = False,
    entropy: bool = False,
    batch_size: int | None = None,
    workers: int = 0,
    device: torch.device | str | None = None,
    precision: Precision = "float32",
    compile_model: bool = False,
) -> Estimate:
    """What :func:`predict_map` with these arguments will take, from a few batches of tiles; nothing is written.

    Raises:
        TypeError, ValueError: as :func:`predict_map`.
    """
    settings = _Settings(probabilities, entropy, Choices(precision, batch_size), workers, device, compile_model)
    with _task(module, dataset, out, settings) as task:
        settings.choices.take(task.told)
        return task.estimate()


@dataclass(frozen=True)
class _Settings:
    """As :func:`predict_map` has them."""

    probabilities: bool
    entropy: bool
    choices: Choices
    workers: int
    device: torch.device | str | None
    compile_model: bool


@dataclass(frozen=True)
class _Task:
    """A map to be made: what is asked of the model, the rasters with their files, and what is written of it."""

    told: Told
    targets: list[tuple[Canvas, Path]]
    sheets: Mapping[str, Sheet]
    classes: tuple[str, ...]
    tags: Mapping[str, str]
    working: Path

    @property
    def pixels(self) -> int:
        placed = sum(int(np.prod(canvas.shape)) for canvas, _ in self.targets)
        return placed or len(self.told.dataset) * self.told.cells[0] * self.told.cells[1]

    @property
    def many(self) -> bool:
        return len(self.told.dataset) > _FEW * self.told.batch_size

    @property
    def height(self) -> int:
        """Rows of a strip: about those of a tile, whole blocks of a TIFF, neither many small files nor much memory."""
        return min(max(-(-self.told.cells[0] // 16) * 16, _LOWEST), _HIGHEST)

    def left(self, parts: Sequence[WorkingRaster]) -> float:
        """Share of the pixels that an earlier run has not computed; ``parts``: of each raster what it has finished."""
        done = 0
        for (canvas, _), part in zip(self.targets, parts, strict=True):
            rows = canvas.shape[0] if part.complete else min(len(part.done) * self.height, canvas.shape[0])
            done += rows * canvas.shape[1]
        return 1 - done / self.pixels

    def estimate(self, left: float = 1.0) -> Estimate:
        return measured(self.told, [canvas for canvas, _ in self.targets], self.sheets, self.height, left=left)

    def job(self) -> dict[str, Any]:
        """What decides about the bytes of a map, but for what is measured."""
        return {
            "version": __version__,
            "model": self.tags["FUSION_MODEL"],
            "modalities": self.tags["FUSION_MODALITIES"],
            **identity_of(self.told.dataset),
            "files": [path.name for _, path in self.targets],
            "sheets": list(self.sheets),
            "interval": self.sheets["prediction"].tags.get("FUSION_INTERVAL", ""),
            "device": self.told.device.type,
            "compiled": self.told.compiled,
        }


@contextlib.contextmanager
def _task(module: Predictor, dataset: TileDataset, out: str | Path, settings: _Settings) -> Iterator[_Task]:
    """With the model in evaluation mode, where it is to run."""
    require_map(module, dataset, shares=settings.probabilities or settings.entropy)
    cells, file = cells_of(module, dataset), Path(out).with_suffix(".tif")
    targets = rasters(dataset, file, cells)
    tags = describe(module.model, dataset) | {"FUSION_MODEL": identity(module), "FUSION_TASK": module.task}
    options: dict[str, Any] = {"probabilities": settings.probabilities, "entropy": settings.entropy}
    sheets = sheets_of(module.task, module.classes, tags, intervals=getattr(module, "intervals", ()), **options)
    with evaluating(module if isinstance(module, nn.Module) else module.model, settings.device) as chosen:
        told = Told(
            lambda batch: asked(module, batch, cells),
            cells,
            dataset,
            settings.choices.at_first,
            settings.workers,
            chosen,
            compiled=settings.compile_model,
        )
        yield _Task(told, targets, sheets, module.classes, tags, file.with_name(f"{file.name}.partial"))


def _write_canvas(
    task: _Task, canvas: Canvas, path: Path, working: WorkingRaster, folder: WorkingFolder, wait: bool
) -> PredictedMap | None:
    """None where another process has written the map, or without ``wait`` is about to."""
    told, sheets, classes, height = task.told, task.sheets, task.classes, task.height
    files = {name: path if name == "prediction" else path.with_name(f"{path.stem}_{name}.tif") for name in sheets}
    pixel = (canvas.transform.a, -canvas.transform.e)
    written = PredictedMap(
        path,
        files.get("probabilities"),
        canvas.shape,
        canvas.crs or None,
        pixel,
        classes,
        files.get("entropy"),
        path.with_suffix(".png"),
    )
    if working.complete:
        told.progress.skip(len(canvas.tiles))
        return replace(written, damaged=working.damaged)
    working.verify()
    for strip in missing_strips(told, canvas, height, working, depth=len(classes), wait=wait):
        working.add(strip.number, sheets, strip.values, bool(strip.owner.any()), told)
    if working.complete or len(working.done) < strip_count(canvas, height):
        return None
    if not working.observed:
        folder.remove()
        raise ValueError(told.nothing_observed(f"{len(canvas.tiles)} tiles of {path}"))
    with working.claims.alone():
        working.refresh()
        if working.complete:
            return None
        for name, sheet in reversed(list(sheets.items())):  # the map itself comes last
            sweep(files[name])
            stored = working.stored(name, canvas.shape, height, len(sheet.bands))
            write_cog(files[name], stored, replace(sheet, store=_as_it_is), canvas.transform, canvas.crs)
            write_styles(files[name], sheet)
        write_preview(path, sheets["prediction"])
        write_prediction_item(written, sheets, files, canvas, working.span)
        working.finish()
    return replace(written, damaged=working.damaged)


def _as_it_is(stored: np.ndarray) -> np.ndarray:
    return np.moveaxis(stored, -1, 0)


def _write_unplaced(told: Told, path: Path, sheets: Mapping[str, Sheet], classes: tuple[str, ...]) -> PredictedMap:
    names = told.dataset.names
    arrays: dict[str, Any] = {
        name: np.full((len(names), len(sheet.bands), *told.cells), sheet.nodata, dtype=sheet.dtype)
        for name, sheet in sheets.items()
    }
    seen = 0
    for t, cells in told.of(range(len(names))):  # cells (rows, columns, K)
        for name, sheet in sheets.items():
            arrays[name][t] = sheet.store(cells)
        seen += 1
    if not seen:
        raise ValueError(told.nothing_observed(f"{len(names)} tiles"))
    tags = {name: {**sheet.tags, "FUSION_NOTE": UNPLACED} for name, sheet in sheets.items()}
    bands = np.array(next(iter(sheets.values())).bands)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays, names=np.array(names), bands=bands, tags=json.dumps(tags))
    second, third = (path if name in sheets else None for name in ("probabilities", "entropy"))
    return PredictedMap(path, second, (len(names), *told.cells), None, None, classes, third, damaged=told.damaged)
