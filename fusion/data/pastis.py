"""PASTIS-HD (Garnot and Landrieu 2021; Astruc et al. 2024), read from its own files.

::

    FOLDER/
      metadata.geojson                                                 number, fold, dates and place of each patch
      DATA_S2/S2_<patch>.npy                                           (dates, 10, 128, 128)
      DATA_S1A/S1A_<patch>.npy  DATA_S1D/S1D_<patch>.npy               (dates, 3, 128, 128), dB
      DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019/SPOT6_RVB_1M00_2019_<patch>.tif   8 bit (3, 1280, 1280), 1 m
      ANNOTATIONS/TARGET_<patch>.npy                                   (3, 128, 128), first the classes 0..19

Known peculiarities of the files, handled here: dictionaries of dates that are JSON text, patches that lack one orbit of
Sentinel-1, dates before the September in which the original begins to count.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rasterio.windows import Window

from .dataset import TileDataset
from .files import one_message, reading
from .geotiff import footprint, pixels_of, put_image, require_same_place
from .limits import check_count
from .modality import Modality
from .npy import open_array
from .opening import open_raster
from .pastis_layout import CROPS, GRID, METADATA, SOURCES, TARGETS, VOID, check_options, find_metadata, patches_with
from .pastis_metadata import FOLDS, Patch, parse_dates, read_patches
from .pastis_place import NEAR, PIXELS, outline_of
from .series import choose_dates, fill_gaps
from .tiles import Geo, Tile

__all__ = ["CROPS", "PastisDataset"]


class PastisDataset(TileDataset):
    """Patches of 1280 m with agricultural parcels; splits ``train``, ``val`` and ``test`` from the five folds.

    ========  ======  ==============================================  ===========================
    modality  kind    bands                                           unit
    ========  ======  ==============================================  ===========================
    spot      image   red, green, blue (1 m)                          8 bit
    s2        series  B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 (10 m)  reflectance x 10000
    s1-asc    series  VV VH VV-VH (10 m)                              dB
    s1-des    series  VV VH VV-VH (10 m)                              dB
    ========  ======  ==============================================  ===========================

    The grid has 32 x 32 patches of 40 m. Days count from 1 January of the year in which the tile's series begin, the
    same day for all of them. A series comes with at most ``max_dates`` dates, spread evenly, or drawn at random in a
    random view; only these are read. There is no mask of clouds.

    Folds: ``test_fold`` is tested, the fold before it validates (before 1 comes 5), the other three train; by default
    5, 4 and 1 to 3, as published. With ``few``, the published protocol with 20 % of the labels, ``test_fold`` names
    the one fold that trains, **validation is that same fold**, and the other four are tested: a score of validation
    then means nothing, that of test does. :func:`~fusion.data.partition` therefore leaves this validation out unless
    it is named.

    Args:
        folder: with the layout above.
        modalities: which, in what order.
        labels: ``"classes"``: which of 18 crops a tile has, at least one pixel of (multi-label; background and void are
            no class); ``"map"``: classes of the 10 m pixels, 0 background, 1 to 18 crops, 19 (void) no label;
            None.
        test_fold: 1 to 5.
        few: the protocol with 20 % of the labels.
        cut: makes ``cut`` x ``cut`` tiles of a patch; it must divide 32.
        max_dates: at most so many dates per series; None for all.

    Raises:
        ValueError: not the folder of PASTIS-HD, files are missing (all of them are named), metadata without folds or
            dates, an unknown modality or option.
    """

    def __init__(
        self,
        folder: str | Path,
        modalities: Sequence[str] = ("spot", "s2", "s1-asc", "s1-des"),
        *,
        labels: Literal["classes", "map"] | None = "classes",
        test_fold: int = 5,
        few: bool = False,
        cut: int = 1,
        max_dates: int | None = 50,
    ) -> None:
        self.folder, self.cut, self.few, self.test_fold = Path(folder), cut, few, test_fold
        self.label_kind, self.max_dates = labels, max_dates
        check_options(modalities, labels, test_fold, cut)
        check_count("PastisDataset", "max_dates", max_dates, optional=True)
        self.patches = read_patches(find_metadata(self.folder))
        self._there = {name: patches_with(self.folder, SOURCES[name].files) for name in modalities}
        self._need(modalities)
        self._parse_dates()
        self._presence: dict[int, torch.Tensor] = {}  # by row; shared by all views
        side = PIXELS // cut
        shapes = {"classes": (len(CROPS),), "map": (side, side)}
        super().__init__(
            [patch.name if cut == 1 else f"{patch.name}_r{r}_c{c}" for patch in self.patches for r, c in self._parts()],
            [SOURCES[name].modality for name in modalities],
            (GRID // cut, GRID // cut),
            task=None if labels is None else ("multilabel" if labels == "classes" else "multiclass"),
            classes=() if labels is None else CROPS if labels == "classes" else ("Background", *CROPS),
            label_shape=None if labels is None else shapes[labels],
            ignore_index=VOID,
            splits=self._fold_splits(),
        )

    # What there is.

    def _need(self, modalities: Sequence[str]) -> None:
        wanted = {name: SOURCES[name].files for name in modalities if name in ("spot", "s2")}
        there = dict(self._there)
        if self.label_kind is not None:
            wanted["labels"], there["labels"] = TARGETS, patches_with(self.folder, TARGETS)
        missing = [
            str(self.folder / files.format(patch.name))
            for name, files in wanted.items()
            for patch in self.patches
            if patch.name not in there[name]
        ]
        if missing:
            what = f"{self.folder}: {len(missing)} files are missing of {len(self.patches)} patches in {METADATA}"
            raise ValueError(one_message(missing, f"{what}; copy them, or leave the modality or the labels out"))
        for name in set(modalities) - set(wanted):
            if not there[name] & {patch.name for patch in self.patches}:
                raise ValueError(
                    f"{self.folder}: {name!r} has no file {SOURCES[name].files.format('<patch>')} of any patch; copy "
                    "them, or leave the modality out"
                )

    def _parse_dates(self) -> None:
        """Of all series, chosen or not, so that the origin does not depend on the choice."""
        problems = []
        for patch in self.patches:
            for name in ("s2", "s1-asc", "s1-des"):
                part = SOURCES[name].part
                try:
                    patch.dates[name] = parse_dates(patch.dates_as_written[part])
                except ValueError as error:
                    if patch.name in self._there.get(name, ()):
                        problems.append(f"patch {patch.name}: dates-{part} {error}")
        if problems:
            path = self.folder / METADATA
            raise ValueError(one_message(problems, f"{path}: the dates of {len(problems)} series cannot be used"))

    def _parts(self) -> list[tuple[int, int]]:
        """Row and column of the tiles of a patch."""
        return [(r, c) for r in range(self.cut) for c in range(self.cut)]

    def _fold_splits(self) -> dict[str, list[int]]:
        before = self.test_fold - 1 or FOLDS[-1]
        if self.few:
            roles = {"train": {self.test_fold}, "val": {self.test_fold}, "test": set(FOLDS) - {self.test_fold}}
        else:
            train = set(FOLDS) - {self.test_fold, before}
            roles = {"train": train, "val": {before}, "test": {self.test_fold}}
        tiles = self.cut**2
        splits = {
            role: [i * tiles + k for i, p in enumerate(self.patches) if p.fold in folds for k in range(tiles)]
            for role, folds in roles.items()
        }
        for role, members in splits.items():
            if not members and self.label_kind is not None:
                raise ValueError(
                    f"{self.folder / METADATA}: no patch of fold {', '.join(map(str, sorted(roles[role])))}, of which "
                    f"{role} is made; take the whole file, another test_fold, or labels=None to pretrain without"
                )
        return {role: members for role, members in splits.items() if members}

    def storage(self, modality: str) -> tuple[int, str]:
        there = self._there[modality]
        if modality == "spot":
            return len(there), "uint8"
        try:
            return len(there), str(open_array(self.folder / SOURCES[modality].files.format(min(there))).dtype)
        except ValueError:  # a damaged file, which reading tiles tells
            return len(there), ""

    def notes(self) -> list[str]:
        found = []
        if self.few:
            found.append(
                f"few: validation is fold {self.test_fold}, on which the model trains, as published; its score means "
                "nothing"
            )
        for modality in self.modalities:
            absent = [patch.name for patch in self.patches if patch.name not in self._there[modality.name]]
            if absent:
                found.append(
                    f"{modality.name}: no file for {len(absent)} of {len(self.patches)} patches, e.g. {absent[0]}"
                )
        empty = sorted(set(FOLDS) - {patch.fold for patch in self.patches})
        if empty:
            found.append(f"no patch of fold {', '.join(map(str, empty))} in {METADATA}")
        lost = [patch.name for patch in self.patches if patch.place is None]
        if lost:
            found.append(f"{len(lost)} patches, e.g. {lost[0]}, have no square of 1280 m as geometry: place unknown")
        return found

    # One tile.

    def _part(self, row: int) -> tuple[Patch, int, int]:
        """The patch of a tile, and the row and column of the tile in it."""
        number, part = divmod(row, self.cut**2)
        return self.patches[number], *divmod(part, self.cut)

    def _window(self, row: int, pixels: int) -> tuple[slice, slice]:
        """Rows and columns of a tile in a patch of so many pixels per side."""
        _, r, c = self._part(row)
        side = pixels // self.cut
        return slice(r * side, (r + 1) * side), slice(c * side, (c + 1) * side)

    def _block(self, row: int) -> str:
        return self._part(row)[0].name

    def _place(self, row: int) -> Geo | None:
        patch, _, _ = self._part(row)
        if patch.place is None:
            return None
        a, b, x, d, e, y = patch.place.transform
        rows, columns = self._window(row, PIXELS)
        down, right = rows.start, columns.start
        return Geo((a, b, x + a * right + b * down, d, e, y + d * right + e * down), patch.place.crs)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        patch, _, _ = self._part(row)
        tile = Tile(self._names[row], {}, origin=patch.origin)
        for modality in self.modalities:
            if patch.name not in self._there[modality.name]:
                continue
            path = self.folder / SOURCES[modality.name].files.format(patch.name)
            if modality.kind == "image":
                self._read_image(tile, path, modality, row)
            else:
                self._read_series(tile, path, modality, row, rng)
        return tile

    def _read_image(self, tile: Tile, path: Path, modality: Modality, row: int) -> None:
        side = SOURCES[modality.name].pixels
        with reading(path), open_raster(path) as image:
            if (image.count, image.height, image.width) != (modality.channels, side, side):
                raise ValueError(
                    f"{path}: {image.count} bands of {image.height} x {image.width} pixels; {modality.channels} "
                    f"({', '.join(modality.bands)}) of {side} x {side} wanted"
                )
            outline = outline_of(self._part(row)[0].place)
            require_same_place(outline, footprint(image, path, modality.resolution), NEAR)
            pixels, observed = pixels_of(image, path, Window.from_slices(*self._window(row, side)))
        put_image(tile, modality.name, pixels, observed)

    def _read_series(
        self, tile: Tile, path: Path, modality: Modality, row: int, rng: np.random.Generator | None
    ) -> None:
        name, patch = modality.name, self._part(row)[0]
        array, dates = open_array(path), patch.dates[name]
        if array.ndim != 4 or array.shape[1:] != (modality.channels, PIXELS, PIXELS):
            raise ValueError(
                f"{path}: shape {array.shape}, (dates, {modality.channels}, {PIXELS}, {PIXELS}) wanted: bands "
                f"{', '.join(modality.bands)}"
                + ("; append VV - VH to the two bands" if array.shape[1:] == (2, PIXELS, PIXELS) else "")
            )
        if len(array) != len(dates):
            raise ValueError(
                f"{path}: {len(array)} dates in the array but {len(dates)} in dates-{SOURCES[name].part} of "
                f"{METADATA}; the dates would be wrong, take the archive's own files"
            )
        if not len(dates) or patch.origin is None:
            return
        days = (dates - patch.origin).astype(np.int64)
        chosen = choose_dates(days, np.ones(len(days)), self.max_dates, rng)
        chosen = chosen[np.argsort(days[chosen], kind="stable")]
        rows, columns = self._window(row, PIXELS)
        values = np.stack([array[date, :, rows, columns] for date in chosen]).astype(np.float32)
        values, valid = fill_gaps(values, name=name)
        tile.values[name] = torch.from_numpy(values)
        tile.days[name] = torch.from_numpy(days[chosen])
        tile.valid[name] = torch.from_numpy(valid)

    def _read_label(self, row: int) -> torch.Tensor:
        if row in self._presence:
            return self._presence[row]
        path = self.folder / TARGETS.format(self._part(row)[0].name)
        target = open_array(path)
        if target.shape != (3, PIXELS, PIXELS):
            raise ValueError(f"{path}: shape {target.shape}, (3, {PIXELS}, {PIXELS}) wanted: first the classes")
        rows, columns = self._window(row, PIXELS)
        stored = np.asarray(target[0, rows, columns])
        if not ((stored >= 0) & (stored <= VOID) & (stored == np.round(stored))).all():  # NaN neither
            raise ValueError(f"{path}: classes {stored.min()}..{stored.max()}, 0 to {VOID} wanted")
        classes = stored.astype(np.int64)
        if self.label_kind == "map":
            return torch.from_numpy(classes)
        counts = np.bincount(classes.ravel(), minlength=VOID + 1)
        self._presence[row] = torch.from_numpy((counts[1:VOID] > 0).astype(np.float32))
        return self._presence[row]
