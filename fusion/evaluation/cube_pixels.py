"""Labelled pixels of cubes: a sample of them, their features, and the scores of what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from fusion.context import ContextFusion
from fusion.data import Cube, TileDataset
from fusion.data.folder import FolderDataset
from fusion.embed.periods import PeriodFeatures, raw_periods
from fusion.training.conformal import ConformalInterval

from .coverage import Coverage
from .dense import confusion_scores
from .estimators import Fitted
from .features import Features
from .intervals import sample_sums
from .metrics import per_class, score
from .patches import strata_of, stratified_sample, vote
from .probes import ProbeResult

__all__ = [
    "CubePixels",
    "labelled_pixels",
    "pixel_coverage",
    "pixel_features",
    "predicted",
    "require_pixel_labels",
    "score_pixels",
]

_BLOCK = 64  # pixels per side that are encoded at a time
_TILES = 64  # whose label maps are in memory at a time
_FEWEST = 500  # pixels of a tile that may be chosen from, at least


@dataclass(frozen=True)
class CubePixels:
    """Pixels of cubes with labels.

    Attributes:
        cube: (n,) number of the cube; ``row``, ``column``: in it.
        label: (n,) class or quantity.
        tile: (n,) number of the tile that each lies in.
        task, classes: of the labels.
    """

    cube: np.ndarray
    row: np.ndarray
    column: np.ndarray
    label: np.ndarray
    tile: np.ndarray
    task: str
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.label)

    def subset(self, rows: np.ndarray) -> CubePixels:
        """Those that ``rows`` numbers or marks."""
        parts = {name: getattr(self, name)[rows] for name in ("cube", "row", "column", "label", "tile")}
        return replace(self, **parts)

    def features(self, x: np.ndarray, names: Sequence[str]) -> Features:
        """Vectors (n, D) with the labels; ``names`` are those of the tiles."""
        labels = self.label[:, None] if self.task == "regression" else self.label.astype(np.int64)
        return Features(x, labels, tuple(names[t] for t in self.tile), self.task, self.classes)


def require_pixel_labels(tiles: TileDataset) -> FolderDataset:
    """The tiles, which must be of a described folder and have labels that are maps.

    Raises:
        ValueError: they are not, or have not.
    """
    if not isinstance(tiles, FolderDataset) or not tiles.dense:
        raise ValueError(
            "probe: the pixels of cubes are learned from label maps; write `reduction: none` under the labels of the "
            "description" + ("" if tiles.task else ", which it does not have yet")
        )
    return tiles


def labelled_pixels(tiles: TileDataset, cubes: Sequence[Cube], most: int, seed: int = 0) -> CubePixels:
    """At most ``most`` labelled pixels of some tiles, by class (by tenths of a quantity) and by tile.

    Of labels finer than the pixels of the cubes each pixel has that of most of them, or their mean; it has that of the
    label which it lies in where labels are coarser.

    Args:
        tiles: of a described folder, with labels that are maps.
        cubes: of the same scenes.

    Raises:
        ValueError: labels of tiles, tiles of something else, or no labelled pixel.
    """
    tiles = require_pixel_labels(tiles)
    number = {cube.name: k for k, cube in enumerate(cubes)}
    resolution = next(iter(cubes[0].sensors.values())).modality.resolution
    side = round(tiles.description.tile / resolution)
    ground, task, most_of_tile = tiles.ground(), str(tiles.task), max(_FEWEST, 20 * most // len(tiles))
    found: list[tuple[np.ndarray, ...]] = []
    for some in np.array_split(np.arange(len(tiles)), -(-len(tiles) // _TILES)):
        maps = vote(tiles.subset(some).labels().numpy(), (side, side), task, len(tiles.classes), tiles.ignore_index)
        for tile, said in zip(some, maps, strict=True):
            scene, top, left = ground[tile]
            row, column = np.nonzero(np.isfinite(said) if task == "regression" else said >= 0)
            label = said[row, column]
            kept = stratified_sample(strata_of(label, task), most_of_tile, seed, _classes(label, task))
            if scene not in number or not len(kept):
                continue
            corner = round(top / resolution), round(left / resolution)
            ones = np.ones(len(kept), dtype=np.int64)
            place = (number[scene] * ones, row[kept] + corner[0], column[kept] + corner[1])
            found.append((*place, label[kept], tile * ones))
    if not found:
        raise ValueError(f"probe: no pixel of {len(tiles)} tiles, e.g. {tiles.names[0]}, is labelled")
    columns = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    _, first = np.unique(np.stack(columns[:3]), axis=1, return_index=True)  # tiles may overlap
    cube, row, column, label, tile = (part[np.sort(first)] for part in columns)
    every = CubePixels(cube, row, column, label, tile, task, tuple(tiles.classes))
    strata = strata_of(every.label, task).astype(np.int64) * len(tiles) + every.tile
    return every.subset(stratified_sample(strata, most, seed, _classes(every.label, task)))


def pixel_features(
    model: ContextFusion, cubes: Sequence[Cube], pixels: CubePixels, *, periods: int = 4, longest_gap: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Of each pixel its mean embedding in each part of the year (n, periods * E), and the means of its bands (n, D).

    Blocks of ground without a chosen pixel are not read, and no other pixel is encoded. A part of the year in which a
    pixel was not seen is NaN; all of it where it was never seen.
    """
    embedded: np.ndarray | None = None
    raw: np.ndarray | None = None
    for k, cube in enumerate(cubes):
        own = np.flatnonzero(pixels.cube == k)
        if not len(own):
            continue
        row, column = pixels.row[own], pixels.column[own]
        wanted = np.zeros(cube.shape, dtype=bool)
        wanted[row, column] = True
        encode = PeriodFeatures(model, cube, periods=periods, longest_gap=longest_gap, pixels=wanted)
        block = row // _BLOCK * (cube.shape[1] // _BLOCK + 1) + column // _BLOCK
        for one in np.unique(block):
            here = np.flatnonzero(block == one)
            top, left = row[here].min(), column[here].min()
            rows, columns = slice(top, row[here].max() + 1), slice(left, column[here].max() + 1)
            at = np.s_[:, row[here] - top, column[here] - left]
            vectors = encode(rows, columns)[at].T, raw_periods(model, cube, rows, columns, periods)[at].T
            if embedded is None or raw is None:
                embedded, raw = (np.full((len(pixels), part.shape[1]), np.nan, np.float32) for part in vectors)
            embedded[own[here]], raw[own[here]] = vectors
    if embedded is None or raw is None:
        raise ValueError(f"probe: none of {len(pixels)} labelled pixels lies in one of {len(cubes)} cubes")
    return embedded, raw


def predicted(fitted: Fitted, x: np.ndarray) -> np.ndarray:
    """(n, K) logits or quantities of features (n, D)."""
    with torch.inference_mode():
        found: np.ndarray = fitted.estimator(torch.from_numpy(x)).numpy()
    return found


def pixel_coverage(
    interval: ConformalInterval, fitted: Fitted, test: CubePixels, x: np.ndarray, tiles: int
) -> Coverage:
    """How often an interval holds the quantity of pixels, by tile.

    Args:
        x: (n, D) features of the pixels.
        tiles: N that the numbers in ``test.tile`` are of.
    """
    each = Coverage.of([interval], predicted(fitted, x), test.label[:, None])
    sums = np.zeros((tiles, *each.sums.shape[1:]))
    np.add.at(sums, test.tile, each.sums)
    return Coverage(each.level, sums)


def score_pixels(kind: str, fitted: Fitted, test: CubePixels, x: np.ndarray, tiles: int, labelled: int) -> ProbeResult:
    """Scores of an estimator on pixels, with the sums of each of their tiles.

    Args:
        x: (n, D) features of the pixels.
        tiles: N that the numbers in ``test.tile`` are of.
        labelled: tiles that were learned from.

    Raises:
        ValueError: one class only, or a quantity that does not vary.
    """
    out = predicted(fitted, x)
    target: Any = test.label[:, None] if test.task == "regression" else test.label.astype(np.int64)
    prediction: Any = out if test.task == "regression" else out.argmax(1)
    classes = len(test.classes)
    each = sample_sums(test.task, target, prediction, classes)  # (n, K, 3) or (n, 1, 5)
    sums = np.zeros((tiles, *each.shape[1:]))
    np.add.at(sums, test.tile, each)
    counts: np.ndarray | None = None
    told: tuple[Mapping[str, float], Mapping[str, Mapping[str, float]]]
    if test.task == "regression":
        told = score(test.task, target, prediction), per_class(test.task, target, prediction, test.classes)
    else:
        flat = np.bincount(target * classes + prediction, minlength=classes**2)
        counts = flat.reshape(classes, classes)
        told = confusion_scores(counts, test.classes)
    scores, by_class = (dict(part) for part in told)
    return ProbeResult(
        kind,
        scores,  # type: ignore[arg-type]
        by_class,  # type: ignore[arg-type]
        target.ravel(),
        prediction.ravel(),
        labelled,
        fitted.setting,
        fitted.notes,
        counts,
        sums,
    )


def _classes(labels: np.ndarray, task: str) -> np.ndarray | None:
    return None if task == "regression" else labels
