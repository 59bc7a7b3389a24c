"""Maps of labels, and one label per tile from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..dataset import Task
from ..files import one_message
from ..units import LARGEST
from .align import Warped
from .balance import contents
from .containers import NPY
from .conventions import Conventions, equals_any
from .description import Labels
from .label_place import lay_labels
from .opening import Opener, check_single
from .patterns import Found
from .pixels import Pixels
from .raster import RASTERS
from .scene import Scene
from .tiling import corners

__all__ = ["LabelMap", "Labelled", "label_blocks", "open_map", "reduce_map", "task_of"]

_TASKS: dict[str, Task] = {"mean": "regression", "majority": "multiclass", "any": "multilabel"}


def task_of(labels: Labels) -> tuple[Task, tuple[str, ...]]:
    """The task that described labels are for, and the names of its classes or of its target."""
    names = tuple(labels.classes) or (labels.name,)
    if labels.reduction == "none":
        return ("multiclass" if labels.classes else "regression"), names
    return _TASKS[labels.reduction], names


@dataclass(frozen=True)
class Labelled:
    """
    Attributes:
        labels: as of a map; classes of points and polygons have their positions as codes.
        values: (n, ...) of the tiles that have a label, see :func:`reduce_map`.
        enough: (N,) bool, which of all tiles these are.
        touching: (2, pairs) position among the n tiles, and point or polygon that touches it; none of maps.
    """

    labels: Labels
    values: np.ndarray
    enough: np.ndarray
    touching: np.ndarray

    @property
    def amounts(self) -> np.ndarray:
        """(n, K) how much of each class is on each tile."""
        return contents(self.values, len(self.labels.classes))


@dataclass(frozen=True)
class LabelMap:
    """The labels of one scene, read by window."""

    labels: Labels
    pixels: Pixels

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.sizes["y"], self.pixels.sizes["x"]

    def read(self, row: int, column: int, height: int, width: int) -> np.ndarray:
        """(h, w) int64 positions of classes, -1 where there is none; or float32 quantities, NaN where there is none."""
        window = (row, column, height, width)
        if not self.labels.classes:
            quantities: np.ndarray = self.pixels.values(None, window, [0], self._override)[0, 0]
            huge = np.abs(quantities) >= LARGEST  # also what float32 cannot hold
            if huge.any():
                raise ValueError(
                    f"{self.pixels.path}: {int(huge.sum())} labels such as {quantities[huge][0]:g}: no measured "
                    "quantity is as large; say nodata in the labels of the description"
                )
            return quantities
        codes, masked = self.pixels.codes(None, window, [0])
        codes = self.pixels.conventions.stored(codes)
        index: np.ndarray = np.full(codes.shape, -1, dtype=np.int64)
        for k, own in enumerate(self.labels.classes.values()):
            index[equals_any(codes, own)] = k
        index[equals_any(codes, self.labels.nodata or ())] = -1
        if masked is not None:
            index[masked] = -1
        return np.asarray(index[0, 0])

    def infinite(self, read: np.ndarray, row: int, column: int) -> int:
        """How many of the values that :meth:`read` gave from there on are no label because they are infinite."""
        if self.labels.classes or self.pixels.dtype.kind != "f" or not np.isnan(read).any():
            return 0
        codes, masked = self.pixels.codes(None, (row, column, *read.shape), [0])
        found = np.isinf(codes) & ~equals_any(codes, self.labels.nodata or ())
        return int((found if masked is None else found & ~masked).sum())

    def _override(self, found: Conventions) -> Conventions:
        return found.overridden(self.labels.nodata)


def label_blocks(labels: Labels, scenes: Sequence[Scene], opener: Opener) -> np.ndarray:
    """(N, h, w) what the map says in each tile, scene after scene, as :meth:`LabelMap.read`.

    Raises:
        ValueError: scenes without a map, or whose map does not cover them; all of them are named.
    """
    blocks, problems = [], []
    infinite: list[str] = []  # maps
    values = 0
    resolution = labels.resolution or opener.description.label_resolution
    side = round(opener.description.tile / resolution)
    for scene in scenes:
        try:
            found = open_map(labels, scene, opener.files(labels.files, scene.name), opener)
            for top, left in corners(scene, opener.description):
                row, column = round(top / resolution), round(left / resolution)
                blocks.append(found.read(row, column, side, side))
                count = found.infinite(blocks[-1], row, column)
                if count:
                    infinite.append(found.pixels.path.name)
                    values += count
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(one_message(problems, f"{opener.folder}: labels of {len(problems)} scenes cannot be used"))
    if infinite:
        opener.remarks["infinite"] = (
            f"labels: {values} infinite values in {len(set(infinite))} map(s), e.g. {infinite[0]}, are no label; "
            "correct them, or say nodata in the labels"
        )
    return np.stack(blocks)


def open_map(labels: Labels, scene: Scene, files: Found, opener: Opener) -> LabelMap:
    """The label variable of a scene, or the first band of a raster.

    Raises:
        ValueError: no file, another place, or a map that does not cover the scene.
    """
    if not files:
        raise ValueError(f"scene {scene.name!r}: no file for the labels ({labels.files or opener.description.files})")
    what = "labels" if labels.variable is None else f"labels {labels.variable!r}"
    check_single(what, files)
    resolution = labels.resolution or opener.description.label_resolution
    part = opener.part(what, files[0].path, labels.variable, _axes(labels, files, opener), resolution)
    opener.absent.add(what, [part], "and have no label; copy the store again if it is incomplete")
    pixels = lay_labels(part, what, resolution, scene.tiles, opener, described=labels.resolution is not None)
    if pixels.sizes.get("band", 1) > 1:
        opener.remarks.setdefault(
            "labels",
            f"labels: {pixels.path.name} has {pixels.sizes['band']} bands, the first of which is read; a map in "
            "colours is to be turned into codes first",
        )
    found = LabelMap(labels, pixels)
    if np.less(np.array(found.size) * resolution, scene.extent).any() and not isinstance(pixels, Warped):
        raise ValueError(
            f"{pixels.path}: labels of {found.size} pixels of {resolution:g} m do "
            f"not cover {scene.extent[0]:g} x {scene.extent[1]:g} m"
        )
    return found


def _axes(labels: Labels, files: Found, opener: Opener) -> tuple[str, ...]:
    """(band, y, x) of rasters; of a variable (y, x) with axes of length 1 before it."""
    path = files[0][0]
    if path.suffix.lower() in RASTERS or (labels.variable is None and path.suffix.lower() != NPY):
        return ("band", "y", "x")
    shape = opener.arrays.get(path, labels.variable or "").shape
    if len(shape) < 2 or len(shape) > 4 or any(n != 1 for n in shape[:-2]):
        named = "labels" if labels.variable is None else f"labels {labels.variable!r}"
        raise ValueError(f"{path}: {named} have shape {shape}, (y, x) wanted")
    return ("time", "band", "y", "x")[4 - len(shape) :]


def reduce_map(labels: Labels, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One label per tile.

    Args:
        blocks: (N, h, w) of :meth:`LabelMap.read`.

    Returns:
        labels, (N,) int64 for majority, (N, classes) float32 for any, (N, 1) float32 for mean, (N, h, w) for none (-1
        or NaN where not labelled); and (N,) bool, whether the tile has enough labelled pixels.
    """
    unknown = blocks < 0 if labels.classes else np.isnan(blocks)
    enough = 1 - unknown.mean(axis=(1, 2)) >= max(labels.min_labelled, 1e-9)
    if labels.reduction == "none":
        return blocks, enough
    count = np.maximum((~unknown).sum(axis=(1, 2)), 1)
    if labels.reduction == "mean":
        if labels.classes:
            raise ValueError(
                "labels: the mean of classes means nothing; leave classes out, or take reduction: majority"
            )
        total = np.where(unknown, 0, blocks).sum(axis=(1, 2), dtype=np.float64)
        return (total / count).astype(np.float32)[:, None], enough
    votes = np.stack([(blocks == k).sum(axis=(1, 2)) for k in range(len(labels.classes))], axis=1)  # (N, classes)
    if labels.reduction == "majority":
        return votes.argmax(axis=1), enough
    return (votes / count[:, None] > labels.min_share).astype(np.float32), enough
