"""Maps of labels, and one label per tile from them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..dataset import Task
from ..files import one_message, reading
from .description import Description, Labels
from .scene import Scene
from .stores import NPY, Arrays, TiffStack, find_files
from .tiling import corners

__all__ = ["label_blocks", "read_map", "reduce_map", "task_of"]

_TASKS: dict[str, Task] = {"mean": "regression", "majority": "multiclass", "any": "multilabel"}


def task_of(labels: Labels) -> tuple[Task, tuple[str, ...]]:
    """The task that described labels are for, and the names of its classes or of its target."""
    names = tuple(labels.classes) or (labels.name,)
    if labels.reduction == "none":
        return ("multiclass" if labels.classes else "regression"), names
    return _TASKS[labels.reduction], names


def label_blocks(
    labels: Labels, description: Description, scenes: Sequence[Scene], folder: Path, arrays: Arrays
) -> np.ndarray:
    """(N, h, w) the map's values in each tile, scene after scene.

    Raises:
        ValueError: scenes without a map, or whose map does not cover them; all of them are named.
    """
    paths = find_files(folder, labels.files or description.files)
    blocks, problems = [], []
    side = round(description.tile / labels.resolution)
    for scene in scenes:
        try:
            values = _map_of(scene, labels, paths, arrays)
        except ValueError as error:
            problems.append(str(error))
            continue
        for top, left in corners(scene, description):
            r, c = round(top / labels.resolution), round(left / labels.resolution)
            blocks.append(values[r : r + side, c : c + side])
    if problems:
        raise ValueError(one_message(problems, f"{folder}: labels of {len(problems)} scenes cannot be used"))
    return np.stack(blocks)


def _map_of(
    scene: Scene, labels: Labels, paths: dict[str, list[tuple[Path, str | None]]], arrays: Arrays
) -> np.ndarray:
    """(y, x) labels of a scene, north up."""
    if scene.name not in paths:
        raise ValueError(f"scene {scene.name!r}: no file for the labels ({labels.files})")
    path = paths[scene.name][0][0]
    with reading(path):
        values = read_map(labels, path, arrays)
    values = values[::-1] if scene.flipped else values
    if np.less(np.array(values.shape) * labels.resolution, scene.extent).any():
        raise ValueError(
            f"{path}: labels of {values.shape} pixels of {labels.resolution:g} m do "
            f"not cover {scene.extent[0]:g} x {scene.extent[1]:g} m"
        )
    return values


def reduce_map(labels: Labels, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One label per tile.

    Args:
        blocks: (N, h, w) the map's values in each tile.

    Returns:
        labels, (N,) int64 for majority, (N, classes) float32 for any, (N, 1) float32 for mean, (N, h, w) for none (-1
        or NaN where not labelled); and (N,) bool, whether the tile has enough labelled pixels.
    """
    unknown: np.ndarray = np.isin(blocks, labels.nodata)
    if blocks.dtype.kind == "f":
        unknown |= np.isnan(blocks)
    if labels.classes:
        index = np.full(blocks.shape, -1, dtype=np.int64)
        for k, codes in enumerate(labels.classes.values()):
            index[np.isin(blocks, codes) & ~unknown] = k
        unknown = index < 0
    enough = 1 - unknown.mean(axis=(1, 2)) >= max(labels.min_labelled, 1e-9)
    count = np.maximum((~unknown).sum(axis=(1, 2)), 1)
    if labels.reduction == "mean":
        total = np.where(unknown, 0, blocks).sum(axis=(1, 2), dtype=np.float64)
        return (total / count).astype(np.float32)[:, None], enough
    if labels.reduction == "none":
        return (index if labels.classes else np.where(unknown, np.nan, blocks).astype(np.float32)), enough
    votes = np.stack([(index == k).sum(axis=(1, 2)) for k in range(len(labels.classes))], axis=1)  # (N, classes)
    if labels.reduction == "majority":
        return votes.argmax(axis=1), enough
    return (votes / count[:, None] > labels.min_share).astype(np.float32), enough


def read_map(labels: Labels, path: Path, arrays: Arrays) -> np.ndarray:
    """(y, x) of the label variable, or of the first band of a GeoTIFF."""
    if path.suffix.lower() in (".tif", ".tiff"):
        image: np.ndarray = TiffStack([path], dated=False)[(slice(None),) * 3][0]
        return image
    if labels.variable is None and path.suffix.lower() != NPY:
        raise ValueError(f"{path}: labels: variable is missing in the description; only GeoTIFF and .npy do without")
    values: np.ndarray = np.asarray(arrays.get(path, labels.variable or "")[...]).squeeze()
    if values.ndim != 2:
        named = "labels" if labels.variable is None else f"labels {labels.variable!r}"
        raise ValueError(f"{path}: {named} have shape {values.shape}, (y, x) wanted")
    return values
