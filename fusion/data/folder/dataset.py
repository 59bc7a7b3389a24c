"""Tiles of a folder that a YAML describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..files import one_message
from ..limits import check_count, check_names
from .containers import Arrays
from .dealing import deal
from .description import DATE_FILES, Description, Source
from .labelling import Labelled, label_tiles
from .labels import task_of
from .loading import load_description
from .narrowing import kept_scenes, lacking, narrow, without
from .notes import notes_of
from .opening import Opener
from .patterns import find_files, of_scene
from .scene import Scene, open_scene
from .scene_tiles import SceneTiles
from .tiling import Corners, corners, members

__all__ = ["FolderDataset"]


class FolderDataset(SceneTiles):
    """Tiles of scenes stored as (time, band, y, x) arrays in HDF5, NetCDF, NPZ, Zarr, .npy, or as rasters.

    Every header is checked when the data set is opened, and every scene that is not as described, or has a raster of
    another place, is named in one error.

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
        ValueError: nothing matches the pattern, scenes that are not as described, or an option that is no count.
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
        memory: int = 3 << 28,
        complete: bool | None = None,
    ) -> None:
        where = type(self).__name__
        check_count(where, "max_dates", max_dates, optional=True)
        check_count(where, "seed", seed, 0)
        check_count(where, "memory", memory, 0)
        if modalities is not None:
            check_names(where, "modalities", modalities)
        self.folder = Path(folder)
        described = description if isinstance(description, Description) else load_description(description)
        self.labels_described = described.labels is not None  # also where they are not read
        self.description = narrow(described, modalities, labels)
        self.arrays = Arrays(memory)
        self.opener = Opener(self.folder, self.description, self.arrays)
        scenes = self._open_scenes(modalities is not None if complete is None else complete)
        description = self.description
        tiles = Corners.of([corners(scene, description) for scene in scenes])
        if not len(tiles):
            extent = scenes[0].extent
            raise ValueError(
                f"{self.folder}: no scene holds a tile of {description.tile:g} m, e.g. {scenes[0].name} is "
                f"{extent[0]:g} x {extent[1]:g} m"
            )
        found = label_tiles(scenes, self.opener)
        if found is not None:
            tiles = tiles.select(np.asarray(found.enough, dtype=bool))
        splits, self._dealt = self._split_up(scenes, tiles, found, seed)
        task, classes = (None, ()) if found is None else task_of(found.labels)
        super().__init__(
            description,
            scenes,
            tiles,
            max_dates=max_dates,
            where=str(self.folder),
            task=task,
            classes=classes,
            labels=None if found is None else torch.from_numpy(found.values),
            splits=splits,
        )

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

    def _split_up(
        self, scenes: list[Scene], tiles: Corners, found: Labelled | None, seed: int
    ) -> tuple[dict[str, Sequence[int] | np.ndarray], np.ndarray | None]:
        """Numbers of tiles by split, as described, or dealt where there are labels and no splits; then also the block
        of each tile, (N,)."""
        side = self.description.tile
        if self.description.splits or found is None:
            rules = self.description.splits.items()
            return {name: members(name, rule, scenes, tiles, side) for name, rule in rules}, None
        dealt, how, blocks = deal(scenes, tiles, side, found, seed)
        self.opener.remarks["splits"] = how
        return dict(dealt), blocks

    def notes(self) -> list[str]:
        return notes_of(self.scenes, [modality.name for modality in self.modalities], self.opener)

    def _block(self, row: int) -> str | None:
        if self._dealt is not None:
            return f"block-{self._dealt[row]}"
        return self.scenes[self._tiles.scenes[row]].name if len(self.scenes) > 1 else None


_NO_BANDS: tuple[str, ...] = ()


def _bands_of(source: Source, description: Description) -> tuple[str, ...]:
    """Which ``{band}`` in the pattern of its files stands for."""
    apart = source.of_bands(source.files or description.files)
    return source.bands if apart and isinstance(source.bands, tuple) else _NO_BANDS
