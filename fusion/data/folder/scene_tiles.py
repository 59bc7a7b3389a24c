"""Tiles that are cut from scenes, whatever the scenes were opened from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch

from ..dataset import TileDataset
from ..modality import Modality
from ..places import ComputedNames, Places
from ..series import fill_gaps
from ..tiles import Geo, Tile, TileBatch
from .description import Description
from .layer import Layer
from .scene import Scene
from .tiling import Corners, cover
from .together import as_batch, read_together

__all__ = ["SceneTiles"]


class SceneTiles(TileDataset):
    """Tiles of opened scenes.

    Days count from 1 January of the year in which the scene's series begin, the tile's ``origin``; where months have no
    year it is unknown. A pixel under the mask is missing: a missing pixel takes the tile's mean of its date and band,
    and a date with too many of them is left out.

    Args:
        description: the modalities, and the sides of tiles and patches.
        scenes: opened by it.
        corners: where the tiles begin.
        max_dates: overrides the description for every series.
        where: how messages begin.
        labels: what :class:`~fusion.data.TileDataset` takes of labels and splits.

    Raises:
        ValueError: scenes that differ in the bands of a modality.
    """

    def __init__(
        self,
        description: Description,
        scenes: Sequence[Scene],
        corners: Corners,
        *,
        max_dates: int | None = None,
        where: str = "scenes",
        **labels: Any,
    ) -> None:
        self.description, self.scenes, self.max_dates = description, list(scenes), max_dates
        self._side, self._tiles = description.tile, corners
        patches = round(description.tile / description.patch)
        modalities = [_modality(name, description, self.scenes, where) for name in description.modalities]
        super().__init__(self._tile_names(), modalities, (patches, patches), **labels)

    def covering(self, overlap: float = 0.25, by: Literal["patch", "pixel"] = "patch") -> Self:
        """The same scenes without labels, cut for a map: tiles overlap, and reach the right and lower border.

        Args:
            overlap: least share of a tile's side, in whole patches; a stride in the description is kept.
            by: tiles of the border begin on whole patches, as a map of patches wants it, or on the coarsest pixels.

        Raises:
            ValueError: an overlap that is not from 0 to below 1, or a data set with labels.
        """
        if self.task is not None:
            raise ValueError("covering: labels are of the tiles that there are; open the data without (labels=False)")
        view = copy.copy(self)
        view._tiles = Corners.of(cover(self.scenes, self.description, overlap, by))
        view._names, view._splits = view._tile_names(), {}
        view._rows = np.arange(len(view._tiles))
        return view

    def _tile_names(self) -> ComputedNames:
        scenes = [scene.name for scene in self.scenes]
        return ComputedNames(len(self._tiles), partial(_tile_name, scenes, self._tiles))

    def storage(self, modality: str) -> tuple[int, str]:
        pixels = [scene.layers[modality].pixels for scene in self.scenes if modality in scene.layers]
        return sum(part.files for part in pixels), str(pixels[0].dtype)

    def ground(self) -> list[tuple[str, float, float]]:
        """Of each tile the scene, and the metres from the scene's northern and western border to the tile's."""
        found = (self._tiles[int(row)] for row in self._rows)
        return [(self.scenes[number].name, top, left) for number, top, left in found]

    def located(self) -> Places:
        coarsest = max(modality.resolution for modality in self.modalities)
        frames: dict[Geo, int] = {}
        frame, metre, corner = np.full(len(self.scenes), -1, np.int32), *np.full((2, len(self.scenes), 2), np.nan)
        for number, geo in enumerate(scene.geo for scene in self.scenes):
            if geo is not None:
                width, _, corner[number, 0], _, height, corner[number, 1] = geo.transform
                metre[number] = width, height
                own = Geo((width * coarsest, 0.0, 0.0, 0.0, height * coarsest, 0.0), geo.crs)
                frame[number] = frames.setdefault(own, len(frames))
        tiles = self._tiles.select(self._rows)
        at = tiles.metres[:, ::-1] * metre[tiles.scenes]  # (N, 2) x, y
        at += corner[tiles.scenes]
        return Places(at, frame[tiles.scenes], tuple(frames))

    def gather(self, tiles: Sequence[int]) -> tuple[list[bool], TileBatch | None]:
        rows = [int(self._rows[i]) for i in tiles]
        corners = [self._tiles[row] for row in rows]
        if len({number for number, _, _ in corners}) == 1 and not self._months and self.task is None:
            scene = self.scenes[corners[0][0]]
            parts = read_together(scene, self.modalities, corners, self._side, self.grid, self.max_dates)
            if parts is not None:
                return as_batch(parts, [self._names[r] for r in rows], [self._place(r) for r in rows], scene.origin)
        return super().gather(tiles)

    # One tile.

    def _place(self, row: int) -> Geo | None:
        number, top, left = self._tiles[row]
        geo = self.scenes[number].geo
        if geo is None:
            return None
        width, _, x, _, height, y = geo.transform
        coarsest = max(modality.resolution for modality in self.modalities)
        return Geo((width * coarsest, 0.0, x + width * left, 0.0, height * coarsest, y + height * top), geo.crs)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        number, top, left = self._tiles[row]
        scene = self.scenes[number]
        tile = Tile(self._names[row], {}, origin=scene.origin)
        for modality in self.modalities:
            layer = scene.layers.get(modality.name)
            if layer is None:
                continue
            if layer.source.kind == "series":
                self._read_series(tile, modality.name, scene, layer, (top, left), rng)
                continue
            values = self._values(layer, None, (top, left))
            if layer.mask is not None:
                values = np.where(self._clear(layer, (top, left))[:, None], values, np.float32(np.nan))
            filled, valid = fill_gaps(values, layer.source.max_cloud, name=modality.name)
            if valid[0]:
                tile.values[modality.name] = torch.from_numpy(filled[0])
        return tile

    def _read_series(
        self,
        tile: Tile,
        name: str,
        scene: Scene,
        layer: Layer,
        corner: tuple[float, float],
        rng: np.random.Generator | None,
    ) -> None:
        source, days = layer.source, scene.days(layer)
        quality, clear = layer.complete, None
        if source.mask is not None:
            clear = self._clear(layer, corner)
            quality *= clear.mean(axis=(1, 2))
            quality[quality < 1 - source.max_cloud] = 0
        chosen = layer.pick(days, quality, self.max_dates, rng)
        if not len(chosen):
            return
        values = self._values(layer, chosen, corner)
        if clear is not None:
            values = np.where(clear[chosen][:, None], values, np.float32(np.nan))
        values, valid = fill_gaps(values, source.max_cloud, name=name)
        if not source.spatial:
            values = np.broadcast_to(values, (*values.shape[:2], *self.grid))
        tile.values[name] = torch.from_numpy(np.ascontiguousarray(values))
        tile.days[name] = torch.from_numpy(days[chosen])
        tile.valid[name] = torch.from_numpy(valid)

    def _values(self, layer: Layer, dates: np.ndarray | None, corner: tuple[float, float]) -> np.ndarray:
        """(L, bands, h, w) of a tile."""
        if layer.extent is None:
            return layer.values(dates, (0, 0, 1, 1))
        side = round(self._side / layer.resolution)
        row, column = (round(metres / layer.resolution) for metres in corner)
        return layer.values(dates, (row, column, side, side))

    def _clear(self, layer: Layer, corner: tuple[float, float]) -> np.ndarray:
        """(L, h, w) bool of all dates, on the pixels of the modality."""
        side = round(self._side / layer.resolution)
        dates = np.arange(len(layer.dates)) if layer.source.kind == "series" else None
        return layer.clear(dates, corner, (side, side), layer.resolution)


def _tile_name(scenes: Sequence[str], tiles: Corners, row: int) -> str:
    number, top, left = tiles[row]
    return f"{scenes[number]}_r{top:04g}_c{left:04g}"


def _modality(name: str, description: Description, scenes: Sequence[Scene], where: str) -> Modality:
    """As in the scenes, which must agree on the bands."""
    source = description.modalities[name]
    bands = {scene.layers[name].names for scene in scenes if name in scene.layers}
    if len(bands) > 1:
        raise ValueError(f"{where}: scenes differ in the bands of {name!r}: {bands}; list the common ones as use")
    resolution = (source.resolution if source.spatial else None) or description.patch
    return Modality(name, source.kind, bands.pop(), resolution, round(description.patch / resolution), source.unit)
