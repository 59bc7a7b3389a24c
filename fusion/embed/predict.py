"""Maps of what a fine-tuned model predicts: of every pixel, or of every tile."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data import TileBatch, TileDataset
from ..data.spacing import evenly_spaced
from ..training.loading import require_fit
from .blend import Told, evaluating, rasters
from .cog import Sheet, write_cog
from .map import UNPLACED, describe, fingerprint
from .mosaic import Canvas
from .progress import Progress
from .raster import replacing
from .sheets import NO_CLASS, sheets_of
from .strips import strip_count, strips
from .working import WorkingFolder, WorkingRaster

__all__ = ["PredictedMap", "Predictor", "predict_map"]

_LOWEST, _HIGHEST = 64, 256  # rows of a strip


class Predictor(Protocol):
    """What :func:`predict_map` asks of a model: :class:`fusion.training.Finetuning` has it, others may.

    Attributes:
        task: ``"multiclass"``, ``"multilabel"`` or ``"regression"``.
        classes: K names of the classes or quantities.
        dense: whether it labels pixels.
        model: the encoder, whose ``config`` says which data it takes.
        hparams: with ``label_shape``, rows and columns of pixels of a tile, where ``dense``.

    Called with a batch of B tiles it returns (B, K) logits or quantities in their unit; (B, K, rows, columns) if dense.
    One that is no ``nn.Module`` says by an attribute ``fingerprint`` which it is: maps that were begun are gone on with
    only by the same.
    """

    @property
    def task(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def dense(self) -> bool: ...

    @property
    def model(self) -> Any: ...

    @property
    def hparams(self) -> Any: ...

    def __call__(self, batch: TileBatch, /) -> Tensor: ...


@dataclass(frozen=True)
class PredictedMap:
    """One map of predictions.

    Attributes:
        path: the file.
        probabilities: the file of probabilities (an NPZ holds both); None where they were not asked for.
        shape: rows and columns of a GeoTIFF; tiles, rows, columns of an NPZ.
        crs: None where unknown.
        pixel: width and height in units of the CRS; None where unknown.
        classes: names of the classes, or of the quantities.
    """

    path: Path
    probabilities: Path | None
    shape: tuple[int, ...]
    crs: str | None
    pixel: tuple[float, float] | None
    classes: tuple[str, ...]

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        place = f"{self.crs}, pixels of {self.pixel[0]:g} x {self.pixel[1]:g}" if self.crs and self.pixel else "no CRS"
        line = f"{self.path}: {size}, {', '.join(self.classes)}, {place}"
        return line if self.probabilities in (None, self.path) else f"{line}\n{self.probabilities}: probabilities"


def predict_map(
    module: Predictor,
    dataset: TileDataset,
    out: str | Path,
    *,
    probabilities: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str | None = None,
    restart: bool = False,
    progress: bool = False,
) -> list[PredictedMap]:
    """Writes what a fine-tuned model says of every tile as cloud-optimised GeoTIFF, north up.

    A model of maps writes the pixels of its label maps. Where tiles overlap, probabilities (or the quantity) are
    averaged with a weight that falls off to the border of the tile, and the class is that of the average: no border of
    a tile is left to be seen. A model of whole tiles writes a pixel a tile; where its tiles overlap by parts of a tile,
    a pixel a patch, the average over the tiles around it.

    Classes are bytes, the index in ``module.classes`` and 255 for no data, with a colour each and their names. A model
    of several classes a tile writes a band of 0 and 1 for each. Quantities are float32 and NaN. A tile without any
    observation is no data. Several rasters and tiles without a place are written as by
    :func:`~fusion.embed.embed_map`; an NPZ holds ``prediction`` (N, bands, rows, columns), ``names``, ``bands``,
    ``tags`` (JSON) and, if asked for, ``probabilities``.

    A raster is computed from north to south in strips of rows; two rows of tiles are in memory, whatever its size.
    Finished strips lie in the folder ``<out>.partial`` until the map is whole. Stopped at any moment and called again
    with the same model, data and options, it goes on after the last of them and writes the bytes that it would have
    written without the interruption (on the same machine with the same number of threads).

    Args:
        module: fine-tuned, e.g. by :func:`fusion.training.load_finetuned`.
        dataset: with or without labels, which are not looked at.
        probabilities: write them too, to ``<out>_probabilities.tif``, a band a class: bytes v that stand for v / 254,
            which is the scale of the bands, and 255 for no data.
        device: where the model runs; by default where it is.
        restart: begin anew, whatever an earlier call left.
        progress: say how far it is.

    Raises:
        TypeError: a model without a head for labels.
        ValueError: data whose bands, units or grid are not the model's, tiles some of which have a place and some not,
            rotated tiles, no tile with an observation, probabilities of a quantity, more than 255 classes, the
            beginning of another map in the way.
        RuntimeError: a file cannot be written; one that was there is untouched.
    """
    if not hasattr(module, "task") or not isinstance(getattr(module, "model", None), nn.Module):
        raise TypeError(
            f"predict_map: {type(module).__name__} has no head for labels; fine-tune it, and give what "
            "fusion.training.load_finetuned returns"
        )
    if probabilities and module.task == "regression":
        raise ValueError(f"predict_map: {', '.join(module.classes)} is a quantity, it has no probabilities")
    if module.task == "multiclass" and len(module.classes) > NO_CLASS:
        raise ValueError(f"predict_map: {len(module.classes)} classes; a map of bytes holds {NO_CLASS}")
    require_fit(cast(nn.Module, module.model), dataset)
    out, cells = Path(out), _cells(module, dataset)
    targets = rasters(dataset, out, cells)
    tags = describe(module.model, dataset) | {"FUSION_MODEL": _identity(module), "FUSION_TASK": module.task}
    sheets = sheets_of(module.task, module.classes, tags, probabilities=probabilities)

    def say(batch: TileBatch) -> Tensor:
        output = module(batch).float()  # (B, K) or (B, K, *cells)
        if module.task != "regression":
            output = output.softmax(1) if module.task == "multiclass" else output.sigmoid()
        spread: Tensor = output if output.ndim == 4 else output[..., None, None].expand(-1, -1, *cells)
        return spread.movedim(1, -1)

    with evaluating(module if isinstance(module, nn.Module) else module.model, device) as chosen:
        pixels = sum(int(np.prod(canvas.shape)) for canvas, _ in targets) or len(dataset) * cells[0] * cells[1]
        shown = Progress(len(dataset), pixels, shown=progress)
        told = Told(say, cells, dataset, batch_size, workers, chosen, shown)
        if not targets:
            return [_write_unplaced(told, out.with_suffix(".npz"), sheets, module.classes)]
        job = _job(tags, told, targets, sheets)
        folder = WorkingFolder(out.with_name(f"{out.with_suffix('.tif').name}.partial"), job, restart=restart)
        written = [
            _write_canvas(told, canvas, path, sheets, module.classes, folder.raster(str(number)), folder)
            for number, (canvas, path) in enumerate(targets)
        ]
        folder.remove()
        shown.end()
    return written


def _cells(module: Predictor, dataset: TileDataset) -> tuple[int, int]:
    """Rows and columns of pixels that a tile is made of in a map."""
    if module.dense:
        height, width = module.hparams["label_shape"]
        return height, width
    # Tiles that overlap by parts of a tile lie on no lattice of whole tiles: that would be several rasters.
    by_patch, by_tile = (len(rasters(dataset, Path("map"), cells)) for cells in (dataset.grid, (1, 1)))
    return dataset.grid if by_patch < by_tile else (1, 1)


def _identity(module: Predictor) -> str:
    known = fingerprint(module if isinstance(module, nn.Module) else module.model)
    own = getattr(module, "fingerprint", "")
    return f"{known}-{own}" if own else known


def _job(
    tags: Mapping[str, str], told: Told, targets: Sequence[tuple[Canvas, Path]], sheets: Mapping[str, Sheet]
) -> dict[str, Any]:
    """What decides about the bytes of a map. Of the data: where tiles lie, and the values of three of them."""
    digest, dataset = hashlib.sha256(), told.dataset
    digest.update(json.dumps([dataset.names, [str(place) for place in dataset.places()]]).encode())
    for tile in (dataset[i] for i in evenly_spaced(len(dataset), 3)):
        for name, values in sorted(tile.values.items()):
            digest.update(name.encode() + values.numpy().tobytes())
    return {
        "version": __version__,
        "model": tags["FUSION_MODEL"],
        "modalities": tags["FUSION_MODALITIES"],
        "tiles": len(dataset),
        "data": digest.hexdigest()[:16],
        "files": [path.name for _, path in targets],
        "sheets": list(sheets),
        "batch_size": told.batch_size,
        "device": told.device.type,
    }


def _strip_height(rows: int) -> int:
    """Rows of a strip: about those of a tile, whole blocks of a TIFF, neither many small files nor much memory."""
    return min(max(-(-rows // 16) * 16, _LOWEST), _HIGHEST)


def _write_canvas(
    told: Told,
    canvas: Canvas,
    path: Path,
    sheets: Mapping[str, Sheet],
    classes: tuple[str, ...],
    working: WorkingRaster,
    folder: WorkingFolder,
) -> PredictedMap:
    files = {name: path if name == "prediction" else path.with_name(f"{path.stem}_{name}.tif") for name in sheets}
    pixel = (canvas.transform.a, -canvas.transform.e)
    written = PredictedMap(path, files.get("probabilities"), canvas.shape, canvas.crs or None, pixel, classes)
    if working.complete and all(file.is_file() for file in files.values()):
        told.progress.skip(len(canvas.tiles))
        return written
    height = _strip_height(told.cells[0])
    if working.strips < strip_count(canvas, height):
        for strip in strips(told, canvas, height, first=working.strips, depth=len(classes)):
            working.add(sheets, strip.values, bool(strip.owner.any()))
    if not working.observed:
        folder.remove()
        raise ValueError(f"none of the {len(canvas.tiles)} tiles of {path} has an observation: there is no map")
    for name, sheet in reversed(list(sheets.items())):  # the map itself comes last
        stored = working.stored(name, canvas.shape, height, len(sheet.bands))
        write_cog(files[name], stored, replace(sheet, store=_as_it_is), canvas.transform, canvas.crs)
    working.finish()
    return written


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
        raise ValueError(f"none of the {len(names)} tiles has an observation: there is no map")
    tags = {name: {**sheet.tags, "FUSION_NOTE": UNPLACED} for name, sheet in sheets.items()}
    bands = np.array(next(iter(sheets.values())).bands)
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays, names=np.array(names), bands=bands, tags=json.dumps(tags))
    second = path if "probabilities" in sheets else None
    return PredictedMap(path, second, (len(names), *told.cells), None, None, classes)
