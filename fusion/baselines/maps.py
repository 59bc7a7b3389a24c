"""Models that make maps of a tile: several streams, one for each modality, each with maps from coarse to fine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.modality import Modality
from ..data.tiles import TileBatch
from ..layers import Encoding
from .base import Baseline
from .config import BaselineConfig

__all__ = ["MapModel", "Shape", "finer_levels", "resized"]

Shape = tuple[int, int, int]  # channels, height, width


class MapModel(Baseline, ABC):
    """Encodings of tiles and patches, and maps that are finer than the patches, from the maps of every modality.

    A stream is a module with ``shapes``, those of its maps from coarse to fine, which :meth:`_stream_maps` returns for
    the tiles that have the modality. Maps of a missing modality are 0.

    Attributes:
        encoded: which of a stream's maps the encodings are made of.
    """

    encoded: ClassVar[tuple[int, ...]] = (0,)

    def __init__(self, config: BaselineConfig) -> None:
        super().__init__(config)
        self.streams = nn.ModuleDict({m.name: self._stream(m) for m in config.modalities})
        shapes = self._shapes()
        width = sum(own[k][0] for own in shapes for k in self._chosen(own))
        self.fuse = nn.Linear(width, config.dim)
        self.levels = finer_levels(shapes, config.grid)

    @abstractmethod
    def _stream(self, modality: Modality) -> nn.Module:
        """The stream of a modality."""

    @abstractmethod
    def _stream_maps(self, batch: TileBatch, name: str, rows: Tensor) -> list[Tensor]:
        """Maps (N, C, H, W) from coarse to fine of the N tiles ``rows`` (B,)."""

    def forward(self, batch: TileBatch) -> Encoding:
        """Encodes B tiles.

        Raises:
            ValueError: a modality the model does not have, or values whose bands or size do not fit.
        """
        return self._encoding(self._maps(batch))

    def pyramid(self, batch: TileBatch) -> list[Tensor]:
        """Maps (B, C, H, W) from coarse to fine; the first is the encoding of the patches, (B, dim, rows, columns).

        The others are the maps of the finest modality that are finer than the patches, each beside those of the other
        modalities in its size. Where pixels are not finer than patches there are none.

        Raises:
            ValueError: as for the encoding.
        """
        maps = self._maps(batch)
        patches = self._encoding(maps).patches.mT.unflatten(2, self.config.grid)
        finer = [
            torch.cat([resized(own[k], size) for own, k in zip(maps, which, strict=True)], 1)
            for size, which in self.levels
        ]
        return [patches, *finer]

    @property
    def pyramid_channels(self) -> tuple[int, ...]:
        """Channels of the maps of :meth:`pyramid`."""
        shapes = self._shapes()
        finer = (sum(own[k][0] for own, k in zip(shapes, which, strict=True)) for _, which in self.levels)
        return (self.config.dim, *finer)

    def _maps(self, batch: TileBatch) -> list[list[Tensor]]:
        """Maps (B, C, H, W) from coarse to fine, by modality of the model."""
        self.standardisation.names(batch)  # refuses what does not fit
        found = []
        for name, shapes in zip(self.streams, self._shapes(), strict=True):
            rows = self._rows(batch, name)
            if rows is None:
                found.append([self._nothing(batch, *shape) for shape in shapes])
            else:
                found.append([self._spread(own, rows) for own in self._stream_maps(batch, name, rows)])
        return found

    def _encoding(self, maps: Sequence[Sequence[Tensor]]) -> Encoding:
        chosen = [own[k] for own in maps for k in self._chosen(own)]
        summary = torch.cat([each.mean((2, 3)) for each in chosen], 1)  # (B, width)
        patches = torch.cat([resized(each, self.config.grid) for each in chosen], 1)  # (B, width, rows, columns)
        return Encoding(self.fuse(summary), self.fuse(patches.flatten(2).mT))

    def _chosen(self, own: Sequence[Any]) -> list[int]:
        """Positions of the maps that the encodings are made of, each once."""
        return list(dict.fromkeys(k % len(own) for k in self.encoded))

    def _shapes(self) -> list[list[Shape]]:
        return [cast("list[Shape]", stream.shapes) for stream in self.streams.values()]


def finer_levels(shapes: Sequence[Sequence[Shape]], grid: tuple[int, int]) -> list[tuple[tuple[int, int], list[int]]]:
    """Sizes of the finest stream that are finer than the patches, and the map of each stream for that size.

    That is its smallest map that is not coarser, or its finest. Of equally fine streams the first counts.
    """
    finest = max(shapes, key=lambda own: own[-1][1] * own[-1][2])
    levels = []
    for height, width in dict.fromkeys(shape[1:] for shape in finest):
        if height * width > grid[0] * grid[1]:
            fitting = [
                next((k for k, own in enumerate(stream) if own[1] >= height and own[2] >= width), len(stream) - 1)
                for stream in shapes
            ]
            levels.append(((height, width), fitting))
    return levels


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) in another size: means over the pixels of a larger map, bilinear between those of a smaller."""
    height, width = maps.shape[-2:]
    if (height, width) == tuple(size):
        return maps
    if height >= size[0] and width >= size[1]:
        if height % size[0] == 0 and width % size[1] == 0:  # a plain mean has the same gradient in every run on a GPU
            return F.avg_pool2d(maps, (height // size[0], width // size[1]))
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
