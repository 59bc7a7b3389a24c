"""FLAIR #2 (Garioud et al. 2023), read from its own files.

::

    FOLDER/
      flair_aerial_train/D004_2021/Z1_NN/img/IMG_<number>.tif       uint8 (5, 512, 512), 0.2 m
      flair_labels_train/D004_2021/Z1_NN/msk/MSK_<number>.tif       (1, 512, 512), 1..19
      flair_sen_train/D004_2021/Z1_NN/sen/SEN2_sp_..._data.npy      (dates, 10, H, W), one for all images of the area
                                          ..._masks.npy             (dates, 2, H, W), snow and cloud probability 0..100
                                          ..._products.txt          a product name a date
      flair_2_aerial_test/  flair_2_labels_test/  flair_2_sen_test/ likewise
      flair-2_centroids_sp_to_patch.json                            {"IMG_<number>.tif": [row, column], ...}

Known peculiarities of the files, handled here: names with ``flair-2`` or ``flair_2``, centroids so close to the edge of
an area that the window would begin at a negative row, the mask value 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from .dataset import TileDataset
from .flair_images import (
    CROP,
    IGNORED,
    LAND_COVER,
    SIDE,
    patch_grid,
    read_aerial,
    read_classes,
    require_mask_on_image,
)
from .flair_layout import CENTROIDS, Area, Image, find_images
from .geotiff import put_image
from .given import january_before
from .limits import check_count, check_share
from .modality import Modality
from .npy import MappedArrays
from .series import choose_dates, fill_gaps, without_infinite
from .tiles import Geo, Tile

__all__ = ["LAND_COVER", "FlairDataset"]

GRID = 10  # patches, and pixels of Sentinel-2, per side
COVERED = 60  # per cent: a pixel of at least this snow or cloud probability is covered, as in FLAIR #2's own filter
VALIDATION = 0.2  # of the training domains


class FlairDataset(TileDataset):
    """Aerial images of 100 m with their Sentinel-2 year and land cover; splits ``train``, ``val``, ``test``.

    ========  ======  ====================================================  ===========================
    modality  kind    bands                                                 unit
    ========  ======  ====================================================  ===========================
    aerial    image   red, green, blue, near infrared, height (0.2 m)       8 bit
    s2        series  B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 (10 m)        reflectance x 10000
    ========  ======  ====================================================  ===========================

    The grid has 10 x 10 patches of 10 m: 50 aerial pixels, one of Sentinel-2. The files' 102.4 m are cut to 100 m at
    the centre; a random view cuts anywhere, image and label map alike, by up to 1.2 m, while Sentinel-2 stays. The
    window of Sentinel-2 is even, so that the centroid lies half a pixel from its middle. What it holds beyond the edge
    of the area is not ``observed``. Days count from 1 January of the year in which the series begins.

    Test tiles are those of the published test folders. Validation is made of whole domains of the training folders, a
    fifth of them, drawn by ``seed`` and listed by :meth:`notes`; with a single domain there is none.

    Args:
        folder: with the layout above.
        modalities: which, in what order.
        labels: ``"classes"``: which of 13 a file has, at least one pixel of (multi-label); ``"map"``: classes of the
            500 x 500 aerial pixels, 255 no label; None. Mask values above 13 are "other", 0 is no label.
        max_cloud: largest share of the window under snow or cloud (probability from 60 %) of a usable date; covered
            pixels of such a date take its mean. 1 takes every date and pixel, and needs no masks.
        max_dates: at most so many dates per series; None for all.
        seed: of the validation domains.

    Raises:
        ValueError: another layout, files without a partner (all of them are named), an unknown modality or option.
    """

    def __init__(
        self,
        folder: str | Path,
        modalities: Sequence[str] = ("aerial", "s2"),
        *,
        labels: Literal["classes", "map"] | None = "classes",
        max_cloud: float = 0.5,
        max_dates: int | None = 50,
        seed: int = 0,
    ) -> None:
        self.folder, self.label_kind = Path(folder), labels
        self.max_cloud, self.max_dates = max_cloud, max_dates
        bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
        offered = {
            "aerial": Modality("aerial", "image", ("R", "G", "B", "NIR", "height"), 0.2, CROP // GRID, "8 bit"),
            "s2": Modality("s2", "series", bands, 10.0, 1, "reflectance x 10000"),
        }
        unknown = [name for name in modalities if name not in offered]
        if isinstance(modalities, str) or unknown or not modalities:
            raise ValueError(f"FlairDataset: modalities {unknown or modalities} unknown; it has {', '.join(offered)}")
        if labels not in ("classes", "map", None):
            raise ValueError(f"FlairDataset: labels are 'classes', 'map' or None, not {labels!r}")
        check_share("FlairDataset", "max_cloud", max_cloud)
        check_count("FlairDataset", "max_dates", max_dates, optional=True)
        check_count("FlairDataset", "seed", seed, 0)
        self.images = find_images(
            self.folder, "aerial" in modalities, "s2" in modalities, labels is not None, clouds=max_cloud < 1
        )
        self._arrays = MappedArrays()
        self._dates: dict[Area, np.ndarray] = {}
        self._presence: dict[int, torch.Tensor] = {}  # by row; shared by all views, like the two above
        self._matched: set[int] = set()  # rows whose mask lies on their image
        self.validation_domains = self._draw_domains(seed)
        shapes = {"classes": (len(LAND_COVER),), "map": (CROP, CROP)}
        super().__init__(
            [image.name for image in self.images],
            [offered[name] for name in modalities],
            (GRID, GRID),
            task=None if labels is None else ("multilabel" if labels == "classes" else "multiclass"),
            classes=() if labels is None else LAND_COVER,
            label_shape=None if labels is None else shapes[labels],
            ignore_index=IGNORED,
            splits=self._split(),
        )

    # What there is.

    def _draw_domains(self, seed: int) -> tuple[str, ...]:
        domains = sorted({image.domain for image in self.images if image.part == "train"})
        if len(domains) < 2:
            return ()
        count = max(1, round(VALIDATION * len(domains)))
        return tuple(sorted(np.random.default_rng(seed).permutation(domains)[:count].tolist()))

    def _split(self) -> dict[str, list[int]]:
        splits: dict[str, list[int]] = {"train": [], "val": [], "test": []}
        for row, image in enumerate(self.images):
            held_out = image.part == "train" and image.domain in self.validation_domains
            splits["val" if held_out else image.part].append(row)
        return {name: rows for name, rows in splits.items() if rows}

    def storage(self, modality: str) -> tuple[int, str]:
        if modality == "aerial":
            return len(self.images), "uint8"
        areas = {image.area: None for image in self.images if image.area is not None}
        try:
            return len(areas), str(self._arrays.get(next(iter(areas)).data).dtype)
        except ValueError:  # a damaged file, which reading tiles tells
            return len(areas), ""

    def notes(self) -> list[str]:
        if self.validation_domains:
            return [f"validation domains: {', '.join(self.validation_domains)}"]
        if "train" in self.splits:
            return ["the training folders hold one domain only: there is no validation split"]
        return []

    # One tile.

    def _block(self, row: int) -> str:
        return self.images[row].name.rpartition("_IMG_")[0]  # domain and area

    def _place(self, row: int) -> Geo | None:
        path = self.images[row].aerial or self.images[row].mask
        if path is None:
            return None
        return patch_grid(path)

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        image = self.images[row]
        tile = Tile(image.name, {})
        spare = SIDE - CROP
        corner = (spare // 2, spare // 2)
        names = [modality.name for modality in self.modalities]
        if rng is not None and "aerial" in names:
            top, left = rng.integers(0, spare + 1, 2)
            corner = (int(top), int(left))
        if "aerial" in names and image.aerial is not None:
            put_image(tile, "aerial", *read_aerial(image.aerial, corner))
        if "s2" in names:
            self._read_series(tile, image, rng)
        if self.label_kind == "map":
            tile.label = self._map(row, corner)
        return tile

    def _read_series(self, tile: Tile, image: Image, rng: np.random.Generator | None) -> None:
        area, centroid = image.area, image.centroid
        if area is None or centroid is None:
            return
        data, dates = self._arrays.get(area.data), self._dates_of(area)
        if data.ndim != 4 or data.shape[1] != 10:
            bands = ", ".join(self.modality("s2").bands)
            raise ValueError(f"{area.data}: shape {data.shape}, (dates, 10, height, width) wanted: bands {bands}")
        if len(data) != len(dates):
            raise ValueError(
                f"{area.data}: {len(data)} dates, but {len(dates)} product names in {area.products.name}; the dates "
                "would be wrong, take the archive's own files"
            )
        height, width = data.shape[2:]
        if not (0 <= centroid[0] <= height and 0 <= centroid[1] <= width):
            raise ValueError(
                f"{area.data}: {height} x {width} pixels, and {CENTROIDS} places {tile.name} at row {centroid[0]}, "
                f"column {centroid[1]}; the two files are not of the same archive"
            )
        top, left = centroid[0] - GRID // 2, centroid[1] - GRID // 2
        inside = (  # of the array, and where that lies in the window
            slice(max(top, 0), min(top + GRID, height)),
            slice(max(left, 0), min(left + GRID, width)),
        )
        within = tuple(
            slice(part.start - begin, part.stop - begin) for part, begin in zip(inside, (top, left), strict=True)
        )
        if not len(dates):
            return
        covered = self._covered(area, data.shape, inside)
        quality = np.ones(len(dates))
        if covered is not None:
            share = covered.mean(axis=(1, 2))
            quality = np.where(share > self.max_cloud, 0, 1 - share)
        tile.origin = january_before(dates)
        days = (dates - tile.origin).astype(np.int64)
        chosen = choose_dates(days, quality, self.max_dates, rng)
        chosen = chosen[np.argsort(days[chosen], kind="stable")]
        if not len(chosen):
            return
        values = np.full((len(chosen), 10, GRID, GRID), np.nan, dtype=np.float32)
        for position, date in enumerate(chosen):
            part = np.array(data[date, :, inside[0], inside[1]], dtype=np.float32)
            if covered is not None:
                part[:, covered[date]] = np.nan
            values[position, :, within[0], within[1]] = part
        values = without_infinite(values, "s2")
        missing = np.isnan(values)
        # The share under cloud is judged above; beyond the edge of the area nothing is wrong with a date.
        values, valid = fill_gaps(values, max_missing=1.0)
        tile.values["s2"] = torch.from_numpy(values)
        tile.days["s2"] = torch.from_numpy(days[chosen])
        tile.valid["s2"] = torch.from_numpy(valid)
        if missing.any():
            tile.observed["s2"] = torch.from_numpy(~missing)

    def _dates_of(self, area: Area) -> np.ndarray:
        if area not in self._dates:
            self._dates[area] = area.dates()
        return self._dates[area]

    def _covered(self, area: Area, shape: tuple[int, ...], inside: tuple[slice, slice]) -> np.ndarray | None:
        """(L, h, w) bool: under snow or cloud; None where every date is taken."""
        if self.max_cloud >= 1:
            return None
        masks = self._arrays.get(area.masks)
        wanted = (shape[0], 2, *shape[2:])
        if masks.shape != wanted:
            raise ValueError(
                f"{area.masks}: shape {masks.shape}, {wanted} wanted: snow and cloud probability of every date"
                + ("; a single channel does not say which of the two it is" if masks.ndim == 3 else "")
                + ". max_cloud=1 does without them"
            )
        covered: np.ndarray = np.any(masks[:, :, inside[0], inside[1]] >= COVERED, axis=1)
        return covered

    # Labels.

    def _read_label(self, row: int) -> torch.Tensor:
        if self.label_kind == "map":
            return self._map(row, ((SIDE - CROP) // 2, (SIDE - CROP) // 2))
        if row not in self._presence:
            codes = self._codes(row, None)
            there = np.bincount(codes[codes != IGNORED], minlength=len(LAND_COVER)) > 0
            self._presence[row] = torch.from_numpy(there.astype(np.float32))
        return self._presence[row]

    def _map(self, row: int, corner: tuple[int, int]) -> torch.Tensor:
        return torch.from_numpy(self._codes(row, corner))

    def _codes(self, row: int, corner: tuple[int, int] | None) -> np.ndarray:
        """(h, w) int64 classes, 255 without."""
        image = self.images[row]
        if image.mask is None:
            raise ValueError(f"{self.folder}: {image.name} has no mask")
        if image.aerial is not None and row not in self._matched:
            require_mask_on_image(image.mask, image.aerial)
            self._matched.add(row)
        return read_classes(image.mask, corner)
