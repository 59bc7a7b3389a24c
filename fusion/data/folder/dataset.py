"""Tiles of a folder that a YAML describes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..dataset import TileDataset
from ..files import one_message
from ..modality import Modality
from ..series import choose_dates, fill_gaps
from ..tiles import Geo, Tile
from .containers import Arrays
from .dealing import deal
from .description import DATE_FILES, Description, Source
from .labelling import Labelled, label_tiles
from .labels import task_of
from .layer import Layer
from .loading import load_description
from .narrowing import kept_scenes, lacking, narrow, without
from .notes import notes_of
from .opening import Opener
from .patterns import find_files, of_scene
from .scene import Scene, open_scene
from .tiling import corners, cover, members

__all__ = ["FolderDataset"]


class FolderDataset(TileDataset):
    """Tiles of scenes stored as (time, band, y, x) arrays in HDF5, NetCDF, NPZ, Zarr, .npy, or as rasters.

    Every header is checked when the data set is opened, and every scene that is not as described, or has a raster of
    another place, is named in one error. Days count from 1 January of the year in which the scene's series begin, the
    tile's ``origin``; where months have no year it is unknown. A pixel under the mask is missing: a missing pixel takes
    the tile's mean of its date and band, and a date with too many of them is left out.

    Args:
        description: YAML file, the name of one that ships with the package, what it would hold, or a
            :class:`Description`.
        folder: where the files are.
        modalities: only these; others are not read.
        labels: False to ignore labels and keep tiles that have none.
        max_dates: overrides the description for every series.
        seed: of the blocks that are dealt to train, val and test where labels are described and splits are not.
        memory: bytes of arrays to keep in memory.
        complete: refuse a modality that no scene has; by default those that are named in ``modalities``. Where it is
            False, optional ones are left out.

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
        seed: int = 0,
        memory: int = 1 << 30,
        complete: bool | None = None,
    ) -> None:
        self.folder = Path(folder)
        described = description if isinstance(description, Description) else load_description(description)
        self.labels_described = described.labels is not None  # also where they are not read
        self.description = description = narrow(described, modalities, labels)
        self.max_dates, self.arrays = max_dates, Arrays(memory)
        self.opener = Opener(self.folder, description, self.arrays)
        self.scenes = self._open_scenes(modalities is not None if complete is None else complete)
        description = self.description
        self._side = description.tile
        self._tiles = [  # scene, top and left in metres
            (number, top, left) for number, scene in enumerate(self.scenes) for top, left in corners(scene, description)
        ]
        if not self._tiles:
            extent = self.scenes[0].extent
            raise ValueError(
                f"{self.folder}: no scene holds a tile of {description.tile:g} m, e.g. {self.scenes[0].name} is "
                f"{extent[0]:g} x {extent[1]:g} m"
            )
        found = label_tiles(self.scenes, self.opener)
        if found is not None:
            self._tiles = [tile for tile, keep in zip(self._tiles, found.enough, strict=True) if keep]
        self._dealt: np.ndarray | None = None  # (N,) block of each tile, where they are dealt
        task, classes = (None, ()) if found is None else task_of(found.labels)
        patches = round(description.tile / description.patch)
        super().__init__(
            self._tile_names(),
            [self._modality(name, source) for name, source in description.modalities.items()],
            (patches, patches),
            task=task,
            classes=classes,
            labels=None if found is None else torch.from_numpy(found.values),
            splits=self._members(found, seed),
        )

    def covering(self, overlap: float = 0.25, by: Literal["patch", "pixel"] = "patch") -> FolderDataset:
        """The same scenes without labels, cut for a map: tiles overlap, and reach the right and lower border.

        Args:
            overlap: least share of a tile's side, in whole patches; a stride in the description is kept.
            by: tiles of the border begin on whole patches, as a map of patches wants it, or on the coarsest pixels.

        Raises:
            ValueError: an overlap that is not from 0 to below 1, or a data set with labels.
        """
        if self.task is not None:
            raise ValueError("covering: labels are of the tiles that there are; open the data without (labels=False)")
        places = cover(self.scenes, self.description, overlap, by)
        view = copy.copy(self)
        view._tiles = [(number, top, left) for number, own in enumerate(places) for top, left in own]
        view._names, view._splits, view._dealt = view._tile_names(), {}, None
        view._rows = np.arange(len(view._tiles))
        return view

    def _tile_names(self) -> list[str]:
        return [f"{self.scenes[s].name}_r{top:04g}_c{left:04g}" for s, top, left in self._tiles]

    # Opening.

    def _open_scenes(self, complete: bool) -> list[Scene]:
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder (--data)")
        patterns = {
            name: (source.files or self.description.files, _bands_of(source, self.description))
            for name, source in self.description.modalities.items()
        }
        masks = {
            name: (source.mask.files, _NO_BANDS)
            for name, source in self.description.modalities.items()
            if source.mask is not None and source.mask.files is not None
        }
        of_dates = self._files_of_dates()
        found = {
            pattern: {
                scene: kept
                for scene, files in find_files(self.folder, *pattern).items()
                if (kept := [file for file in files if file.path not in of_dates])
            }
            for pattern in {*patterns.values(), *masks.values()}
        }
        own = [pattern for pattern in patterns.values() if "{scene}" in pattern[0]] or list(patterns.values())
        names = kept_scenes(self.description, {scene for pattern in own for scene in found[pattern]})
        if not names:
            raise ValueError(f"{self.folder}: no file matches {', '.join(sorted({p for p, _ in patterns.values()}))}")
        scenes, problems = [], []
        for name in names:
            try:
                files, of_masks = (
                    {modality: of_scene(found[pattern], pattern[0], name) for modality, pattern in part.items()}
                    for part in (patterns, masks)
                )
                scenes.append(open_scene(name, files, of_masks, self.opener))
            except ValueError as error:
                problems.append(str(error))
        absent = lacking(self.description, scenes)
        if absent and not complete:
            told = f"{', '.join(absent)}: in none of {len(scenes)} scenes, so left out"
            self.opener.remarks["absent"] = told
            self.description = self.opener.description = without(self.description, absent)
        else:
            problems += [f"modality {name!r} is in none of {len(scenes)} scenes; leave it out" for name in absent]
        if problems:
            raise ValueError(one_message(problems, f"{self.folder}: {len(problems)} problems in {len(names)} scenes"))
        return scenes

    def _files_of_dates(self) -> set[Path]:
        """Which a pattern such as {scene}.npy may take for a scene."""
        patterns = {source.dates for source in self.description.modalities.values() if isinstance(source.dates, str)}
        found = [find_files(self.folder, pattern) for pattern in patterns if Path(pattern).suffix.lower() in DATE_FILES]
        return {file.path for scenes in found for files in scenes.values() for file in files}

    def _modality(self, name: str, source: Source) -> Modality:
        """As in the scenes, which must agree on the bands."""
        bands = {scene.layers[name].names for scene in self.scenes if name in scene.layers}
        if len(bands) > 1:
            raise ValueError(
                f"{self.folder}: scenes differ in the bands of {name!r}: {bands}; list the common ones as use"
            )
        resolution = (source.resolution if source.spatial else None) or self.description.patch
        pixels = round(self.description.patch / resolution)
        return Modality(name, source.kind, bands.pop(), resolution, pixels, source.unit)

    def _members(self, found: Labelled | None, seed: int) -> dict[str, Sequence[int] | np.ndarray]:
        """Numbers of tiles by split, as described, or dealt where there are labels and no splits."""
        if self.description.splits or found is None:
            rules = self.description.splits.items()
            return {name: members(name, rule, self.scenes, self._tiles, self._side) for name, rule in rules}
        dealt, how, self._dealt = deal(self.scenes, self._tiles, self._side, found, seed)
        self.opener.remarks["splits"] = how
        return dict(dealt)

    def storage(self, modality: str) -> tuple[int, str]:
        pixels = [scene.layers[modality].pixels for scene in self.scenes if modality in scene.layers]
        return sum(part.files for part in pixels), str(pixels[0].dtype)

    def notes(self) -> list[str]:
        return notes_of(self.scenes, [modality.name for modality in self.modalities], self.opener)

    def ground(self) -> list[tuple[str, float, float]]:
        """Of each tile the scene, and the metres from the scene's northern and western border to the tile's."""
        found = (self._tiles[row] for row in self._rows)
        return [(self.scenes[number].name, top, left) for number, top, left in found]

    # One tile.

    def _block(self, row: int) -> str | None:
        if self._dealt is not None:
            return f"block-{self._dealt[row]}"
        return self.scenes[self._tiles[row][0]].name if len(self.scenes) > 1 else None

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
        quality = np.ones(len(days)) if layer.available is None else layer.available.all(axis=1).astype(float)
        clear = None
        if source.mask is not None:
            clear = self._clear(layer, corner)
            quality *= clear.mean(axis=(1, 2))
            quality[quality < 1 - source.max_cloud] = 0
        chosen = choose_dates(days, quality, self.max_dates or source.max_dates, rng)
        if not len(chosen):
            return
        chosen = chosen[np.argsort(days[chosen], kind="stable")]
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


_NO_BANDS: tuple[str, ...] = ()


def _bands_of(source: Source, description: Description) -> tuple[str, ...]:
    """Which ``{band}`` in the pattern of its files stands for."""
    apart = source.of_bands(source.files or description.files)
    return source.bands if apart and isinstance(source.bands, tuple) else _NO_BANDS
