"""Tiles of a folder that a YAML describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..dataset import Task, TileDataset
from ..files import one_message, reading
from ..modality import Modality
from ..series import choose_dates, fill_gaps
from ..tiles import Geo, Tile
from .description import Description, Source, load_description
from .labels import reduce_map
from .scene import Layer, Scene, open_scene, read_map
from .stores import Arrays, find_files

__all__ = ["CubeDataset"]

_TASKS: dict[str, Task] = {"mean": "regression", "majority": "multiclass", "any": "multilabel"}


class CubeDataset(TileDataset):
    """Tiles of scenes stored as (time, band, y, x) arrays in HDF5, NetCDF, NPZ, Zarr, or as GeoTIFFs.

    Every header is checked when the data set is opened, and every scene that is not as described is named in one
    error. Days count from 1 January of the year in which the scene's series begin. A pixel under the mask is missing: a
    missing pixel takes the tile's mean of its date and band, and a date with too many of them is left out.

    Args:
        description: YAML file, the name of one that ships with the package, what it would hold, or a
            :class:`Description`.
        folder: where the files are.
        modalities: only these; others are not read.
        labels: False to ignore the label map and keep tiles without label.
        max_dates: overrides the description for every series.
        memory: bytes of arrays to keep in memory.

    Raises:
        ValueError: nothing matches the pattern, or scenes that are not as described.
    """

    def __init__(
        self,
        description: str | Path | Mapping[str, Any] | Description,
        folder: str | Path,
        modalities: Sequence[str] | None = None,
        *,
        labels: bool = True,
        max_dates: int | None = None,
        memory: int = 1 << 30,
    ) -> None:
        self.folder = Path(folder)
        self.description = description = _narrow(
            description if isinstance(description, Description) else load_description(description), modalities, labels
        )
        self.max_dates, self.arrays = max_dates, Arrays(memory)
        self.scenes = self._open_scenes()
        self._side = description.tile
        self._tiles = [  # scene, top and left in metres
            (number, top, left)
            for number, scene in enumerate(self.scenes)
            for top, left in _corners(scene, description)
        ]
        if not self._tiles:
            extent = self.scenes[0].extent
            raise ValueError(
                f"{self.folder}: no scene holds a tile of {description.tile:g} m, e.g. {self.scenes[0].name} is "
                f"{extent[0]:g} x {extent[1]:g} m"
            )
        values = None if description.labels is None else self._label_tiles()
        task, classes = _task(description)
        patches = round(description.tile / description.patch)
        super().__init__(
            [f"{self.scenes[s].name}_r{top:04g}_c{left:04g}" for s, top, left in self._tiles],
            [self._modality(name, source) for name, source in description.modalities.items()],
            (patches, patches),
            task=task if values is not None else None,
            classes=classes if values is not None else (),
            labels=values,
            splits={name: self._members(name, rule) for name, rule in description.splits.items()},
        )

    # Opening.

    def _open_scenes(self) -> list[Scene]:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder (--data)")
        patterns = {
            name: source.files or self.description.files for name, source in self.description.modalities.items()
        }
        found = {pattern: find_files(self.folder, pattern) for pattern in {*patterns.values(), self.description.files}}
        names = sorted({scene for files in found.values() for scene in files})
        if not names:
            raise ValueError(f"{self.folder}: no file matches {', '.join(sorted(found))}")
        scenes, problems = [], []
        for name in names:
            try:
                files = {modality: found[pattern].get(name, []) for modality, pattern in patterns.items()}
                scenes.append(open_scene(name, files, self.description, self.arrays))
            except ValueError as error:
                problems.append(str(error))
        absent = [m for m in self.description.modalities if scenes and not any(m in scene.layers for scene in scenes)]
        problems += [f"modality {name!r} is in none of {len(scenes)} scenes" for name in absent]
        if problems:
            raise ValueError(one_message(problems, f"{self.folder}: {len(problems)} problems in {len(names)} scenes"))
        return scenes

    def _modality(self, name: str, source: Source) -> Modality:
        """As in the scenes, which must agree on the bands."""
        bands = {scene.layers[name].names for scene in self.scenes if name in scene.layers}
        if len(bands) > 1:
            raise ValueError(
                f"{self.folder}: scenes differ in the bands of {name!r}: {bands}; list the common ones as use"
            )
        resolution = source.resolution if source.spatial else self.description.patch
        pixels = round(self.description.patch / resolution)
        return Modality(name, source.kind, bands.pop(), resolution, pixels, source.unit)

    def _label_tiles(self) -> torch.Tensor:
        """Labels of all tiles; tiles without enough labelled pixels leave ``self._tiles``."""
        labels = self.description.labels
        paths = find_files(self.folder, labels.files or self.description.files)
        blocks, problems = [], []
        side = round(self._side / labels.resolution)
        for scene in self.scenes:
            try:
                if scene.name not in paths:
                    raise ValueError(f"scene {scene.name!r}: no file for the labels ({labels.files})")
                path = paths[scene.name][0][0]
                with reading(path):
                    values = read_map(labels, path, self.arrays)
                values = values[::-1] if scene.flipped else values
                if np.less(np.array(values.shape) * labels.resolution, scene.extent).any():
                    raise ValueError(
                        f"{path}: labels of {values.shape} pixels of {labels.resolution:g} m do "
                        f"not cover {scene.extent[0]:g} x {scene.extent[1]:g} m"
                    )
            except ValueError as error:
                problems.append(str(error))
                continue
            for top, left in _corners(scene, self.description):
                r, c = round(top / labels.resolution), round(left / labels.resolution)
                blocks.append(values[r : r + side, c : c + side])
        if problems:
            raise ValueError(one_message(problems, f"{self.folder}: labels of {len(problems)} scenes cannot be used"))
        values, enough = reduce_map(labels, np.stack(blocks))
        if not enough.any():
            raise ValueError(
                f"{self.folder}: none of {len(enough)} tiles has {labels.min_labelled:.0%} labelled pixels; check "
                "classes, nodata and min_labelled of the labels"
            )
        self._tiles = [tile for tile, keep in zip(self._tiles, enough, strict=True) if keep]
        return torch.from_numpy(values[enough])

    def _members(self, split: str, rule: Mapping[str, Any]) -> list[int]:
        """Tiles that lie wholly within the rows and columns, of scenes whose name matches."""
        unknown = set(rule) - {"files", "rows", "columns"}
        if unknown:
            raise ValueError(f"split {split!r}: unknown key {', '.join(unknown)}; known are files, rows, columns")
        members = []
        for i, (number, top, left) in enumerate(self._tiles):
            scene = self.scenes[number]
            height, width = scene.extent
            if (
                fnmatch(scene.name, str(rule.get("files", "*")))
                and _inside(top / height, (top + self._side) / height, rule.get("rows", [0, 1]))
                and _inside(left / width, (left + self._side) / width, rule.get("columns", [0, 1]))
            ):
                members.append(i)
        return members

    def storage(self, modality: str) -> tuple[int, str]:
        layers = [scene.layers[modality] for scene in self.scenes if modality in scene.layers]
        files = sum(len(getattr(layer.array, "paths", (None,))) for layer in layers)
        return files, str(layers[0].array.dtype)

    def notes(self) -> list[str]:
        found = []
        for modality in self.modalities:
            absent = [scene.name for scene in self.scenes if modality.name not in scene.layers]
            if absent:
                found.append(f"{modality.name}: not in {len(absent)} of {len(self.scenes)} scenes, e.g. {absent[0]}")
            for scene in self.scenes:
                layer = scene.layers.get(modality.name)
                if layer is None or layer.dates is None:
                    continue
                empty = layer.empty_dates()
                if empty:
                    found.append(
                        f"{modality.name}: {empty} of {len(layer.dates)} dates of {scene.name} have no data (95 % or "
                        "more of the pixels) and are masked"
                    )
        return found

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
        tile = Tile(self._names[row], {})
        for modality in self.modalities:
            layer = scene.layers.get(modality.name)
            if layer is None:
                continue
            with reading(layer.path):
                if layer.source.kind == "series":
                    self._read_series(tile, modality.name, scene, layer, (top, left), rng)
                    continue
                filled, valid = fill_gaps(self._values(scene, layer, None, (top, left)), layer.source.max_cloud)
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
        quality = np.ones(len(days)) if layer.available is None else layer.available.all(axis=1).astype(float)
        clear = None
        if source.mask is not None:
            clear = self._clear(scene, layer, corner)
            quality *= clear.mean(axis=(1, 2))
            quality[quality < 1 - source.max_cloud] = 0
        chosen = choose_dates(days, quality, self.max_dates or source.max_dates, rng)
        if not len(chosen):
            return
        chosen = chosen[np.argsort(days[chosen], kind="stable")]
        values = self._values(scene, layer, chosen, corner)
        if clear is not None:
            values = np.where(clear[chosen][:, None], values, np.float32(np.nan))
        values, valid = fill_gaps(values, source.max_cloud)
        if not source.spatial:
            values = np.broadcast_to(values, (*values.shape[:2], *self.grid))
        tile.values[name] = torch.from_numpy(np.ascontiguousarray(values))
        tile.days[name] = torch.from_numpy(days[chosen])
        tile.valid[name] = torch.from_numpy(valid)

    def _pixels(self, scene: Scene, layer: Layer, resolution: float, corner: tuple[float, float]) -> tuple[int, ...]:
        """Row, column, height and width of a tile in an array of this resolution, as it is stored."""
        if layer.extent is None:
            return 0, 0, 1, 1
        side = round(self._side / resolution)
        row, column = round(corner[0] / resolution), round(corner[1] / resolution)
        if scene.flipped:
            row = round(layer.extent[0] / resolution) - row - side
        return row, column, side, side

    def _values(self, scene: Scene, layer: Layer, dates: np.ndarray | None, corner: tuple[float, float]) -> np.ndarray:
        """(L, bands, h, w) of a tile, north up."""
        values = layer.values(dates, self._pixels(scene, layer, layer.source.resolution or 1.0, corner))
        return values[:, :, ::-1] if scene.flipped else values

    def _clear(self, scene: Scene, layer: Layer, corner: tuple[float, float]) -> np.ndarray:
        """(L, h, w) bool of all dates, on the pixels of the modality."""
        own = layer.source.resolution
        resolution = layer.source.mask.resolution or own
        clear = layer.clear(np.arange(len(layer.dates)), self._pixels(scene, layer, resolution, corner))
        clear = clear[:, ::-1] if scene.flipped else clear
        side = round(self._side / own)
        nearest = np.arange(side) * clear.shape[1] // side
        return clear[:, nearest[:, None], nearest]


def _narrow(description: Description, modalities: Sequence[str] | None, labels: bool) -> Description:
    if modalities is not None:
        unknown = [name for name in modalities if name not in description.modalities]
        if unknown or not modalities:
            raise ValueError(
                f"modalities {unknown or modalities} unknown; described are {', '.join(description.modalities)}"
            )
        description = replace(description, modalities={name: description.modalities[name] for name in modalities})
    return description if labels else replace(description, labels=None)


def _task(description: Description) -> tuple[Task | None, tuple[str, ...]]:
    labels = description.labels
    if labels is None:
        return None, ()
    if labels.reduction == "none":
        return ("multiclass" if labels.classes else "regression"), tuple(labels.classes) or (labels.name,)
    return _TASKS[labels.reduction], tuple(labels.classes) or (labels.name,)


def _corners(scene: Scene, description: Description) -> list[tuple[float, float]]:
    """Top and left of the tiles of a scene, in metres."""
    stride = description.stride or description.tile
    tops, lefts = (np.arange(0, length - description.tile + 1e-6, stride) for length in scene.extent)
    return [(float(top), float(left)) for top in tops for left in lefts]


def _inside(start: float, end: float, intervals: Sequence[Any]) -> bool:
    pairs = intervals if intervals and isinstance(intervals[0], list | tuple) else [intervals]
    return any(low - 1e-9 <= start and end <= high + 1e-9 for low, high in pairs)
