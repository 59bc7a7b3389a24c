"""What is to be done with arrays, decided from their shapes and coordinates before any value is computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np

from ..context import ContextFusion
from ..data import Modality
from ..data.check import check_values
from ..data.folder import Description
from ..data.folder.opening import Tiles
from ..data.folder.scene import Scene
from ..data.folder.scene_tiles import SceneTiles
from ..data.folder.tiling import Corners, corners
from ..data.spacing import evenly_spaced
from ..embed.batches import usual_batch
from ..embed.scale import at_scale
from .given import Given
from .jobs import CubeEmbedding, CubePrediction, Job, TileEmbedding, TilePrediction
from .opening import describe, open_arrays
from .parts import computed, lazily_computed
from .placed import Placed
from .tiles import cover_arrays

__all__ = ["Options", "Plan", "plan_cube", "plan_tiles"]

_CUBE_BLOCK = 64  # pixels per side of a cube that its encoder is given at a time, unless Dask's chunks say more
_LEAST, _MOST = 256, 512  # pixels of the finest arrays per side of a part, whatever their chunks
_LOOKED_AT, _DATES = 3, 4  # tiles, and dates of each, of which the range of values is compared with the model's


@dataclass(frozen=True)
class Options:
    """As :meth:`fusion.arrays.ArrayModel.embed` explains them."""

    overlap: float | None = None
    patch_scale: int = 1
    max_dates: int | None = None
    max_cloud: float = 0.5
    longest_gap: int = 7
    temporal_window: int = 3
    batch_size: int | None = None
    block: int | None = None
    check: bool = True


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        job: computes any part of the result.
        place: where the arrays lie; None where unknown.
        cell: height and width in metres of a row and a column of the result.
        block: rows and columns of a part; None for all at once.
    """

    job: Job
    given: Mapping[str, Given]
    place: Tiles | None
    cell: tuple[float, float]
    block: int | None

    @property
    def finest(self) -> Given:
        """The modality of the smallest pixels, whose coordinates the result has."""
        return _finest(self.given)

    def values(self) -> Any:
        """(*leading, rows, columns): of Dask where any array is, else of NumPy."""
        if any(one.lazy for one in self.given.values()):
            return lazily_computed(self.job, self.given, self.block or max(self.job.shape))
        return computed(self.job, self.given, self.block)


def plan_tiles(
    placed: Placed, given: Mapping[str, Given], options: Options, *, kind: Literal["embedding", "prediction"]
) -> Plan:
    """Of a model of tiles.

    Raises:
        ValueError: arrays that do not lie on one ground, are smaller than a tile or have values of another range.
    """
    rows, columns = placed.encoder.config.grid
    if rows != columns:
        raise ValueError(f"a model of tiles of {rows} x {columns} patches; arrays are cut into square tiles alone")
    patch = placed.encoder.config.modalities[0].patch_metres
    description = describe(given, rows * patch, patch, max_cloud=options.max_cloud)
    scene = open_arrays(given, description)
    cells: tuple[int, int] | None
    _, cells = at_scale(placed.encoder, (rows, columns), options.patch_scale)
    by: Literal["patch", "pixel"] = "patch"
    overlap = 0.25 if options.overlap is None else options.overlap
    if kind == "prediction" and placed.head.dense:
        height, width = placed.head.hparams["label_shape"]
        cells, by = (height, width), "pixel"
    elif kind == "prediction":
        cells, overlap = None, options.overlap or 0.0
    _warn(given, scene)
    cover = cover_arrays(scene, description, overlap=overlap, by=by, cells=cells)
    if options.check:
        _check(scene, description, placed.encoder.config.modalities)
    batch_size = options.batch_size or usual_batch((rows, columns))
    job: TileEmbedding | TilePrediction
    if kind == "embedding":
        job = TileEmbedding(placed, cover, batch_size, options.max_dates, options.patch_scale)
    else:
        job = TilePrediction(placed, cover, batch_size, options.max_dates)
    if options.check:
        job = job.with_faster_precision(given)
    lazy = any(one.lazy for one in given.values())
    block = options.block or (_usual_block(given, cover.cell[0], description.tile) if lazy else None)
    return Plan(job, given, scene.tiles, cover.cell, block)


def plan_cube(
    placed: Placed, given: Mapping[str, Given], options: Options, *, kind: Literal["embedding", "prediction"]
) -> Plan:
    """Of a context-aware model.

    Raises:
        ValueError: as :func:`plan_tiles`; no array of the reference sensor; options of tiles.
    """
    if options.patch_scale != 1 or options.overlap is not None:
        raise ValueError("a context-aware model embeds single pixels, not tiles; leave patch_scale and overlap out")
    reference = cast(ContextFusion, placed.encoder).config.reference.modality.name
    if reference not in given:
        raise ValueError(
            f"no array of {reference!r}, the reference, whose dates are embedded; {', '.join(given)} given"
        )
    pixel = _finest(given).modality.resolution
    coarsest = math.lcm(*(round(one.modality.resolution * 100) for one in given.values())) / 100
    description = describe(given, coarsest, coarsest)
    scene = open_arrays(given, description)
    _warn(given, scene)
    if options.check:
        side = min(16 * coarsest, *(length // coarsest * coarsest for length in scene.extent))
        _check(scene, replace(description, tile=side), placed.encoder.config.modalities)
    made = CubeEmbedding if kind == "embedding" else CubePrediction
    shape = round(scene.extent[0] / pixel), round(scene.extent[1] / pixel)
    days = np.unique(given[reference].dates)
    job: Job = made(placed, description, shape, days, options.temporal_window, options.longest_gap)
    lazy = any(one.lazy for one in given.values())
    block = options.block or (_usual_block(given, pixel, pixel) if lazy else _CUBE_BLOCK)
    return Plan(job, given, scene.tiles, (pixel, pixel), block)


def _finest(given: Mapping[str, Given]) -> Given:
    spatial = [one for one in given.values() if "y" in one.axes]
    return min(spatial, key=lambda one: one.modality.resolution)


def _usual_block(given: Mapping[str, Given], cell: float, side: float) -> int:
    """Rows and columns of a part: about a chunk of the finest arrays, and no less than a tile of ``side`` metres."""
    finest = _finest(given)
    chunks = finest.dataset[finest.variables[0]].chunksizes
    longest = max([_LEAST, *(n for axis in "yx" for n in chunks.get(finest.dimension(axis), ()))])
    return max(1, round(max(min(longest, _MOST) * finest.modality.resolution, side) / cell))


def _check(scene: Scene, description: Description, wanted: tuple[Modality, ...]) -> None:
    """Compares some values with the unit and the range of the training.

    Raises:
        ValueError: a range that is not that of the unit, or a factor of ten from that of the training.
    """
    places = Corners.of([corners(scene, description)])
    some = evenly_spaced(len(places), min(_LOOKED_AT, len(places)))
    tiles = SceneTiles(description, [scene], places.select(some), max_dates=_DATES, where="arrays")
    known = {modality.name: modality for modality in wanted}
    for _, tile in tiles.readable(range(len(tiles))):
        for name in tile.values:
            check_values(tile, known[name])


def _warn(given: Mapping[str, Given], scene: Scene) -> None:
    """Tells of what may be an oversight: pixels of unknown size, dates that are there twice."""
    if scene.tiles is None or not scene.tiles.grid.crs:
        names = ", ".join(f"{name} {one.modality.resolution:g} m" for name, one in given.items() if "y" in one.axes)
        warnings.warn(
            f"the arrays have no CRS: their pixels are taken to be as large as the model's ({names})", stacklevel=4
        )
    for name, one in given.items():
        days, count = np.unique(one.dates, return_counts=True)
        several = days[count > 1]
        if len(several):
            warnings.warn(
                f"{name}: {len(several)} dates are there several times, e.g. {several[0]}: tiles use all of "
                "them, a pixel of a context-aware model the first on which it was observed",
                stacklevel=4,
            )
