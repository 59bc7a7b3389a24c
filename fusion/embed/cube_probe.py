"""Maps from a probe of cubes: blocks of ground as tiles, and a predictor that embeds the block it is given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from fusion.context import ContextFusion
from fusion.data import Cube, Geo, Modality, Tile, TileBatch, TileDataset
from fusion.training.probed import Probed

from .periods import PeriodFeatures

__all__ = ["CubeBlocks", "CubeProbe", "estimated"]


class CubeBlocks(TileDataset):
    """Square blocks of cubes as tiles of pixels, for :func:`fusion.embed.predict_map`.

    What a tile holds is an image of the first date of each sensor, 0 where nothing was observed: a sign that there are
    data, by which a map that was begun knows them again. Predictions are made from the cubes themselves.
    At the southern and eastern borders blocks overlap the ones before them, so that none is smaller.

    Args:
        cubes: with a place each, or a single one.
        sensors: names of those that are used; each cube has one of them or more.
        block: pixels per side, less where a cube is smaller.

    Raises:
        ValueError: no pixel a block, or cubes without the sensors.
    """

    read_ahead = False

    def __init__(self, cubes: Sequence[Cube], sensors: Sequence[str], block: int = 64) -> None:
        if block < 1:
            raise ValueError(f"CubeBlocks: blocks have 1 pixel a side or more, not {block}")
        self.cubes, self.known = list(cubes), {cube.name: cube for cube in cubes}
        found: dict[str, Modality] = {}
        for cube in cubes:
            for name in sensors:
                if name in cube.sensors:
                    found.setdefault(name, cube.sensors[name].modality)
        if not found:
            raise ValueError(f"CubeBlocks: none of {len(cubes)} cubes has {', '.join(sensors)}")
        size = tuple(min(block, *(cube.shape[axis] for cube in cubes)) for axis in (0, 1))
        self.blocks_of = [
            (cube, row, column)
            for cube in cubes
            for row in _starts(cube.shape[0], size[0])
            for column in _starts(cube.shape[1], size[1])
        ]
        names = [f"{cube.name}_r{row:05d}_c{column:05d}" for cube, row, column in self.blocks_of]
        # Without a unit: what is checked against it are values, and these are no more than a sign.
        images = [replace(m, kind="image", patch_size=1, unit="", mean=(), std=()) for m in found.values()]
        super().__init__(names, images, (size[0], size[1]))
        self._number = {name: k for k, name in enumerate(names)}

    def where(self, name: str) -> tuple[Cube, slice, slice]:
        """The cube of a block, its rows and its columns."""
        cube, row, column = self.blocks_of[self._number[name]]
        return cube, slice(row, row + self.grid[0]), slice(column, column + self.grid[1])

    def _place(self, row: int) -> Geo | None:
        cube, top, left = self.blocks_of[row]
        if cube.geo is None:  # of a single cube a place in its array is one in the map
            return Geo((1.0, 0.0, float(left), 0.0, -1.0, -float(top)), "") if len(self.cubes) == 1 else None
        a, b, c, d, e, f = cube.geo.transform
        return Geo((a, b, c + a * left + b * top, d, e, f + d * left + e * top), cube.geo.crs)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        cube, top, left = self.blocks_of[row]
        here = np.s_[:1, :, top : top + self.grid[0], left : left + self.grid[1]]
        values = {}
        for modality in self.modalities:
            if modality.name in cube.sensors:
                first = np.asarray(cube.sensors[modality.name].values[here], dtype=np.float32)[0]
                values[modality.name] = torch.from_numpy(np.nan_to_num(first, nan=0.0, posinf=0.0, neginf=0.0))
        return Tile(self._names[row], values)


class CubeProbe(nn.Module):
    """A :class:`~fusion.embed.predict.Predictor` of the pixels of cubes.

    Args:
        probe: a saved probe of a context-aware model, as :func:`fusion.training.load_finetuned` returns it.
        blocks: what is to be mapped.

    Attributes:
        fingerprint: of what of the cubes is not in the tiles: their sensors' dates.

    Raises:
        ValueError: a probe of tiles, or a cube that does not fit the model.
    """

    def __init__(self, probe: Probed, blocks: CubeBlocks) -> None:
        super().__init__()
        if not probe.of_cubes:
            raise ValueError("CubeProbe: a probe of tiles is wanted for cubes; give it to predict_map with tiles")
        fusion = cast(ContextFusion, probe.model)
        self.task, self.classes, self.dense = probe.task, probe.classes, True
        self.intervals = probe.intervals
        self.hparams = probe.hparams | {"label_shape": list(blocks.grid)}
        self.model, self.estimator = ContextPixels(fusion, blocks), probe.estimator
        self.blocks = blocks
        self.encoders = {
            cube.name: PeriodFeatures(fusion, cube, periods=probe.periods, longest_gap=probe.longest_gap)
            for cube in blocks.cubes
        }
        digest = hashlib.sha256()
        for cube in blocks.cubes:
            for name, series in cube.sensors.items():
                digest.update(f"{cube.name} {name} {cube.shape}".encode() + series.epoch_days.tobytes())
        self.fingerprint = f"{digest.hexdigest()[:8]}-{probe.periods}-{probe.longest_gap}"

    def forward(self, batch: TileBatch) -> Tensor:
        """(B, K, h, w) logits or quantities; NaN where the reference never saw a pixel."""
        return torch.stack([self._of(name) for name in batch.names])

    def _of(self, name: str) -> Tensor:
        cube, rows, columns = self.blocks.where(name)
        return estimated(self.estimator, self.encoders[cube.name](rows, columns), len(self.classes))


def estimated(estimator: nn.Module, features: np.ndarray, outputs: int) -> Tensor:
    """(K, h, w) logits or quantities of features (D, h, w), NaN where a pixel has none of them.

    Args:
        outputs: K.
    """
    flat = torch.from_numpy(features).flatten(1).T  # (h * w, D)
    seen = ~flat.isnan().all(1)
    out = torch.full((len(flat), outputs), torch.nan)
    out[seen] = estimator(flat[seen])
    return out.T.unflatten(1, features.shape[1:])


@dataclass(frozen=True)
class _Config:
    """Blocks of pixels, in the face of a configuration of tiles."""

    modalities: tuple[Modality, ...]
    grid: tuple[int, int]
    dim: int
    fusion: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return self.fusion


class ContextPixels(nn.Module):
    """The encoder as :func:`~fusion.training.loading.require_fit` wants it: it takes blocks."""

    def __init__(self, fusion: ContextFusion, blocks: CubeBlocks) -> None:
        super().__init__()
        self.fusion = fusion
        config = fusion.config
        self.config = _Config(tuple(blocks.modalities), blocks.grid, config.embedding, config.to_dict())


def _starts(length: int, block: int) -> list[int]:
    """First pixels of blocks along one side; the last one ends where the side does."""
    return sorted({*range(0, length - block + 1, block), length - block})
