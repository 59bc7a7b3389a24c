"""Maps of what a fine-tuned model predicts: of every pixel, or of every tile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data import TileBatch, TileDataset
from ..training.loading import require_fit
from .blend import Told, blended, evaluating, rasters
from .cog import Sheet, write_cog
from .map import UNPLACED, describe, fingerprint
from .mosaic import Canvas
from .raster import replacing

if TYPE_CHECKING:
    from ..training import Finetuning

__all__ = ["PredictedMap", "predict_map"]

_NO_CLASS = 255
_STEPS = 254  # of a probability, 0 to 254; 255 is no data


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
    module: Finetuning,
    dataset: TileDataset,
    out: str | Path,
    *,
    probabilities: bool = False,
    batch_size: int = 8,
    workers: int = 0,
    device: torch.device | str | None = None,
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

    Args:
        module: fine-tuned, e.g. by :func:`fusion.training.load_finetuned`.
        dataset: with or without labels, which are not looked at.
        probabilities: write them too, to ``<out>_probabilities.tif``, a band a class: bytes v that stand for v / 254,
            which is the scale of the bands, and 255 for no data.
        device: where the model runs; by default where it is.

    Raises:
        TypeError: a model without a head for labels.
        ValueError: data whose bands, units or grid are not the model's, tiles some of which have a place and some not,
            rotated tiles, no tile with an observation, probabilities of a quantity, more than 255 classes.
        RuntimeError: a file cannot be written; one that was there is untouched.
    """
    if not hasattr(module, "task") or not isinstance(getattr(module, "model", None), nn.Module):
        raise TypeError(
            f"predict_map: {type(module).__name__} has no head for labels; fine-tune it, and give what "
            "fusion.training.load_finetuned returns"
        )
    if probabilities and module.task == "regression":
        raise ValueError(f"predict_map: {', '.join(module.classes)} is a quantity, it has no probabilities")
    if module.task == "multiclass" and len(module.classes) > _NO_CLASS:
        raise ValueError(f"predict_map: {len(module.classes)} classes; a map of bytes holds {_NO_CLASS}")
    require_fit(cast(nn.Module, module.model), dataset)
    out, cells = Path(out), _cells(module, dataset)
    targets = rasters(dataset, out, cells)
    tags = describe(cast(nn.Module, module.model), dataset) | {"FUSION_MODEL": fingerprint(module)}
    sheets = _sheets(module, probabilities, tags | {"FUSION_TASK": module.task})

    def say(batch: TileBatch) -> Tensor:
        output = module(batch).float()  # (B, K) or (B, K, *cells)
        if module.task != "regression":
            output = output.softmax(1) if module.task == "multiclass" else output.sigmoid()
        spread: Tensor = output if output.ndim == 4 else output[..., None, None].expand(-1, -1, *cells)
        return spread.movedim(1, -1)

    with evaluating(module, device) as chosen:
        told = Told(say, cells, dataset, batch_size, workers, chosen)
        if not targets:
            return [_write_unplaced(told, out.with_suffix(".npz"), sheets, module.classes)]
        return [_write_canvas(told, canvas, path, sheets, module.classes) for canvas, path in targets]


def _cells(module: Finetuning, dataset: TileDataset) -> tuple[int, int]:
    """Rows and columns of pixels that a tile is made of in a map."""
    if module.dense:
        height, width = module.hparams["label_shape"]
        return height, width
    # Tiles that overlap by parts of a tile lie on no lattice of whole tiles: that would be several rasters.
    by_patch, by_tile = (len(rasters(dataset, Path("map"), cells)) for cells in (dataset.grid, (1, 1)))
    return dataset.grid if by_patch < by_tile else (1, 1)


def _sheets(module: Finetuning, probabilities: bool, tags: Mapping[str, str]) -> dict[str, Sheet]:
    """``prediction`` and, if wanted, ``probabilities``."""
    classes = module.classes
    if module.task == "regression":
        return {"prediction": Sheet(_quantity, classes, "float32", np.nan, tags={"FUSION_DECODE": "value = v", **tags})}
    listed = {"FUSION_CLASSES": json.dumps(list(classes)), **tags}
    if module.task == "multiclass":
        known = listed | {"FUSION_DECODE": f"class = FUSION_CLASSES[v], {_NO_CLASS} = no data"}
        first = Sheet(_class, ("class",), "uint8", _NO_CLASS, categories=classes, tags=known)
    else:
        known = listed | {"FUSION_DECODE": f"1 = present, 0 = absent, {_NO_CLASS} = no data"}
        first = Sheet(_presence, classes, "uint8", _NO_CLASS, tags=known)
    if not probabilities:
        return {"prediction": first}
    scaled = listed | {"FUSION_DECODE": f"probability = v / {_STEPS}, {_NO_CLASS} = no data"}
    return {
        "prediction": first,
        "probabilities": Sheet(_probability, classes, "uint8", _NO_CLASS, scale=1 / _STEPS, tags=scaled),
    }


def _write_canvas(
    told: Told, canvas: Canvas, path: Path, sheets: Mapping[str, Sheet], classes: tuple[str, ...]
) -> PredictedMap:
    second = path.with_name(f"{path.stem}_probabilities.tif") if "probabilities" in sheets else None
    with blended(told, canvas, path) as blend:
        for sheet, target in zip(sheets.values(), (path, second), strict=False):
            write_cog(cast(Path, target), blend.values, sheet, canvas.transform, canvas.crs)
    pixel = (canvas.transform.a, -canvas.transform.e)
    return PredictedMap(path, second, canvas.shape, canvas.crs or None, pixel, classes)


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


def _class(values: np.ndarray) -> np.ndarray:
    missing = np.isnan(values).any(axis=-1)
    best = np.nan_to_num(values).argmax(axis=-1)
    return np.where(missing, _NO_CLASS, best).astype(np.uint8)[None]


def _presence(values: np.ndarray) -> np.ndarray:
    return _bytes(values > 0.5, values)


def _probability(values: np.ndarray) -> np.ndarray:
    return _bytes(np.rint(np.nan_to_num(values) * _STEPS), values)


def _bytes(stored: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(bands, rows, columns)"""
    return np.moveaxis(np.where(np.isnan(values), _NO_CLASS, stored).astype(np.uint8), -1, 0)


def _quantity(values: np.ndarray) -> np.ndarray:
    return np.moveaxis(values, -1, 0)
