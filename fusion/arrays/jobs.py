"""What is to be computed of arrays, part by part: of tiles with a model of tiles, of pixels and dates with a cube's."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..context import ContextFusion
from ..data import Cube, TileBatch
from ..data.files import DamagedFile
from ..data.folder import Description
from ..data.folder.cubes import cube_of
from ..embed.blend import Told
from ..embed.cube_probe import estimated
from ..embed.dense import BlockEncoder
from ..embed.periods import PeriodFeatures
from ..embed.precision import decided
from ..embed.predictor import asked
from ..embed.scale import at_scale
from ..embed.trial import try_on_map
from ..training.probed import Probed
from .given import Given
from .opening import open_arrays
from .placed import Placed
from .tiles import Cover, Part

__all__ = ["CubeEmbedding", "CubePrediction", "Job", "TileEmbedding", "TilePrediction"]

# Of the threads of a process one computes at a time, with all cores or the GPU; the others read.
_ONE = threading.Lock()


class Job(Protocol):
    """A result (*leading, rows, columns), of which any part can be computed by any process.

    Attributes:
        leading: sizes of the axes before rows and columns.
        shape: rows and columns.
    """

    @property
    def leading(self) -> tuple[int, ...]: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    def needs(self, given: Mapping[str, Given], part: Part) -> dict[str, Given]:
        """The pixels that a part is made of; nothing is read."""

    def compute(self, needed: Mapping[str, Given], part: Part, damaged: dict[str, str]) -> np.ndarray:
        """(*leading, rows, columns) float32, NaN where there is no observation.

        Args:
            damaged: is given what cannot be read, in words of rows and columns, and why.
        """


@dataclass(frozen=True)
class _OfTiles:
    """
    Attributes:
        batch_size: tiles.
        max_dates: of each series at most so many.
    """

    placed: Placed
    cover: Cover
    batch_size: int
    max_dates: int | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.cover.shape

    def needs(self, given: Mapping[str, Given], part: Part) -> dict[str, Given]:
        return self.cover.given(given, part)

    def say(self) -> Callable[[TileBatch], Tensor]:
        """From B tiles to (B, *cells, D)."""
        raise NotImplementedError

    @property
    def leading(self) -> tuple[int, ...]:
        """(D,)."""
        raise NotImplementedError

    def with_faster_precision(self, given: Mapping[str, Given]) -> Self:
        """Where the precision takes a trial, with its result, of some of the tiles."""
        if decided(self.placed.precision, self.placed.device):
            return self
        whole = self.cover.whole
        tiles = self.cover.tiles(self.needs(given, whole), whole, max_dates=self.max_dates)
        told = Told(self.say(), self.cover.cells, tiles, self.batch_size, 0, self.placed.device)
        return replace(self, placed=replace(self.placed, on_cpu=try_on_map(told, self.batch_size)))

    def compute(self, needed: Mapping[str, Given], part: Part, damaged: dict[str, str]) -> np.ndarray:
        tiles = self.cover.tiles(needed, part, max_dates=self.max_dates)
        (depth,), say = self.leading, self.say()
        with _ONE:
            values = self.cover.asked(
                tiles, part, say, depth, batch_size=self.batch_size, placed=self.placed, damaged=damaged
            )
        return np.moveaxis(values, -1, 0)


@dataclass(frozen=True)
class TileEmbedding(_OfTiles):
    """Embeddings of patches, (D, rows, columns)."""

    patch_scale: int = 1

    @property
    def leading(self) -> tuple[int, ...]:
        return (self.placed.encoder.config.dim,)

    def say(self) -> Callable[[TileBatch], Tensor]:
        encoder = cast(nn.Module, self.placed.encoder)
        encode, grid = at_scale(encoder, self.placed.encoder.config.grid, self.patch_scale)

        def patches(batch: TileBatch) -> Tensor:
            found: Tensor = encode(batch).patches  # (B, P, D)
            return found.unflatten(1, grid)

        return patches


@dataclass(frozen=True)
class TilePrediction(_OfTiles):
    """Probabilities of classes or quantities, (K, rows, columns)."""

    @property
    def leading(self) -> tuple[int, ...]:
        return (len(self.placed.head.classes),)

    def say(self) -> Callable[[TileBatch], Tensor]:
        head, cells = self.placed.head, self.cover.cells
        return lambda batch: asked(head, batch, cells)


@dataclass(frozen=True)
class _OfCube:
    """
    Attributes:
        shape: rows and columns of the cube.
        dates: (T,) of the reference, each day once, ascending.
        temporal_window: see :func:`fusion.data.folder.read_cubes`.
        longest_gap: see :class:`fusion.embed.dense.BlockEncoder`.
    """

    placed: Placed
    description: Description
    shape: tuple[int, int]
    dates: np.ndarray
    temporal_window: int
    longest_gap: int

    @property
    def leading(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _values(self, needed: Mapping[str, Given], part: Part) -> np.ndarray:
        """As :meth:`compute`.

        Raises:
            DamagedFile: a chunk cannot be read.
        """
        raise NotImplementedError

    def compute(self, needed: Mapping[str, Given], part: Part, damaged: dict[str, str]) -> np.ndarray:
        try:
            return self._values(needed, part)
        except DamagedFile as error:
            damaged[str(part)] = str(error)
            return np.full((*self.leading, *part.shape), np.nan, np.float32)

    def needs(self, given: Mapping[str, Given], part: Part) -> dict[str, Given]:
        top, left, height, width = self._window(part)
        sides, found = self._sides, {}
        for name, one in given.items():
            pixels = [length // sides[name] for length in (top, left, height, width)]
            found[name] = one.window(*pixels).north_up()
        return found

    @property
    def _sides(self) -> dict[str, int]:
        """How many of the cube's pixels one of each sensor is across."""
        metres = {name: source.resolution or 0.0 for name, source in self.description.modalities.items()}
        return {name: round(own / min(metres.values())) for name, own in metres.items()}

    def _window(self, part: Part) -> tuple[int, int, int, int]:
        """Top, left, height and width of a part with half a window around it, on whole pixels of every sensor."""
        encoder = cast(ContextFusion, self.placed.encoder)
        margin = max(encoder.sensor(name).config.window // 2 for name in encoder.sensors)
        coarse = math.lcm(*self._sides.values())
        sides = (part.rows, part.columns)
        top, left = (max(0, side.start - margin) // coarse * coarse for side in sides)
        bottom, right = (
            min(-(-length // coarse), -(-(side.stop + margin) // coarse)) * coarse
            for side, length in zip(sides, self.shape, strict=True)
        )
        return top, left, bottom - top, right - left

    def _cube(self, needed: Mapping[str, Given], part: Part) -> tuple[Cube, slice, slice]:
        """The ground around a part as a cube, and the part's rows and columns in it."""
        scene = open_arrays(needed, self.description)
        cube = cube_of(scene, {name: [one.modality] for name, one in needed.items()}, self.temporal_window)
        assert cube is not None  # a scene without a layer is refused when it is opened
        top, left, _, _ = self._window(part)
        (height, width), rows, columns = part.shape, part.rows.start - top, part.columns.start - left
        return cube, slice(rows, rows + height), slice(columns, columns + width)


@dataclass(frozen=True)
class CubeEmbedding(_OfCube):
    """Embeddings of pixels at every date of the reference sensor, (T, E, rows, columns)."""

    @property
    def leading(self) -> tuple[int, ...]:
        return (len(self.dates), cast(ContextFusion, self.placed.encoder).config.embedding)

    def _values(self, needed: Mapping[str, Given], part: Part) -> np.ndarray:
        cube, rows, columns = self._cube(needed, part)
        with _ONE:
            encoder = BlockEncoder(cast(ContextFusion, self.placed.encoder), cube, longest_gap=self.longest_gap)
            return encoder(rows, columns)


@dataclass(frozen=True)
class CubePrediction(_OfCube):
    """Probabilities of classes or quantities of the pixels of a cube, (K, rows, columns)."""

    @property
    def leading(self) -> tuple[int, ...]:
        return (len(self.placed.head.classes),)

    def _values(self, needed: Mapping[str, Given], part: Part) -> np.ndarray:
        cube, rows, columns = self._cube(needed, part)
        probe: Any = cast(Probed, self.placed.head)
        with _ONE, torch.inference_mode():
            features = PeriodFeatures(
                cast(ContextFusion, probe.model), cube, periods=probe.periods, longest_gap=probe.longest_gap
            )
            scores = estimated(probe.estimator, features(rows, columns), len(probe.classes))  # (K, h, w)
            if probe.task != "regression":
                scores = scores.softmax(0) if probe.task == "multiclass" else scores.sigmoid()
        return scores.numpy()
