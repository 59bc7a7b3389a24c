"""TreeSatAI Time Series (Ahlswede et al. 2022; Astruc et al. 2024), read from its own files.

::

    FOLDER/
      train_filenames.lst  val_filenames.lst  test_filenames.lst      names of tif files; also under split/
      labels/TreeSatBA_v9_60m_multi_labels.json                       {tif name: [[genus, area share], ...]}
      aerial/<name>.tif                                               uint8 (4, 304, 304), 0.2 m
      sentinel-ts/<name>_<year>.h5   (or sentinel/<name>.h5)          series of 6 x 6 pixels of 10 m
      s1/60m/<name>.tif  s2/60m/<name>.tif                            6 x 6 pixels of one date

Known faults of the files, handled here: Sentinel-1 dates that are NaN as a whole or in part (and the product list
that then no longer matches data cleaned elsewhere), next to no backscatter at the border of a swath, mask arrays with
ten channels of which two mean something, file names with or without a year.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch

from .dataset import TileDataset
from .files import decoding, one_message, read_json, reading
from .geotiff import Footprint, put_image
from .limits import check_count, check_share
from .modality import Modality
from .opening import open_raster
from .series import choose_dates, fill_gaps
from .tiles import Geo, Tile
from .treesat_images import PIXELS, aerial_footprint, patch_grid, read_aerial, read_radar, read_reflectance
from .treesat_series import BANDS, SEASONS, SENSORS, SIDE, Series, medians, open_series

__all__ = ["GENERA", "TreeSatDataset"]

GENERA = (
    "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus", "Populus",
    "Prunus", "Pseudotsuga", "Quercus", "Tilia",
)  # fmt: skip
LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
MIN_AREA = 0.07  # a genus counts above this share of the tile
MEDIAN = "-median"
IMAGES = {"aerial": "aerial", "s1-mono": "s1/60m", "s2-mono": "s2/60m"}  # and the folders of their files


class TreeSatDataset(TileDataset):
    """Tiles of 60 m with tree genera; splits ``train``, ``val``, ``test`` as far as their lists exist.

    ==============  ======  ==============================================  ===========================
    modality        kind    bands                                           unit
    ==============  ======  ==============================================  ===========================
    aerial          image   near infrared, green, blue, red (0.2 m)         8 bit
    s2              series  B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 (10 m)  reflectance x 10000
    s1-asc          series  VV VH (10 m)                                    dB, or linear
    s1-des          series  VV VH (10 m)                                    dB, or linear
    s2-mono         image   those of s2, of one date                        reflectance x 10000
    s1-mono         image   VV VH (10 m), of one date                       dB
    s2-median       image   those of s2, by season or of the year           reflectance x 10000
    s1-asc-median   image   VV VH, by season or of the year                 dB, or linear
    s1-des-median   image   VV VH, by season or of the year                 dB, or linear
    ==============  ======  ==============================================  ===========================

    Days count from 1 January of the year of most products. The aerial image is cut to 300 x 300 pixels, 50 for each
    patch of 10 m: from the centre, or anywhere in a random view. A series comes with at most ``max_dates`` dates:
    spread evenly and clear of cloud, or drawn at random in a random view. Only these dates are read. Missing pixels
    (cloud, snow, no backscatter) take the tile's mean of their date and band.

    ``s2-mono`` has the ten bands of the series in their order, which is not that of its files. ``s1-mono`` is in dB as
    in the public archive, whatever ``radar`` says. A median is taken, pixel by pixel, over all usable dates; a season
    without any takes the median of the year and is not ``observed``.

    Args:
        folder: with the layout above.
        modalities: which, in what order.
        labels: False for pre-training without the label file; then tiles without a genus above 7 % are kept too.
        max_dates: at most so many dates per series; None for all.
        max_cloud: largest share of the tile under cloud or snow (probability above 10 %) of a usable Sentinel-2
            date; 1 takes every date.
        radar: of series and medians, ``"dB"``, or ``"linear"`` as stored.
        medians: ``"season"`` (band names such as "B02 winter", December to February) or ``"year"``.

    Raises:
        ValueError: a list, label or file is missing (all of them are named), an unknown modality or unit.
    """

    def __init__(
        self,
        folder: str | Path,
        modalities: Sequence[str] = ("aerial", "s2", "s1-asc"),
        *,
        labels: bool = True,
        max_dates: int | None = 50,
        max_cloud: float = 0.2,
        radar: Literal["dB", "linear"] = "dB",
        medians: Literal["season", "year"] = "season",
    ) -> None:
        check_count("TreeSatDataset", "max_dates", max_dates, optional=True)
        check_share("TreeSatDataset", "max_cloud", max_cloud)
        self.folder, self.radar, self.medians = Path(folder), radar, medians
        self.max_dates, self.max_cloud = max_dates, max_cloud
        self._several: list[str] = []  # files of series that were chosen, and those that were not
        self._footprints: dict[str, Footprint | None] = {}  # of aerial images, by tile; shared by all views
        offered = self._offered()
        unknown = [name for name in modalities if name not in offered]
        if unknown or not modalities:
            raise ValueError(f"TreeSatDataset: modalities {unknown or modalities} unknown; it has {', '.join(offered)}")
        for option, given, known in (("radar", radar, ("dB", "linear")), ("medians", medians, ("season", "year"))):
            if given not in known:
                raise ValueError(f"TreeSatDataset: {option} is {known[0]!r} or {known[1]!r}, not {given!r}")
        split_of = self._split_lists()
        shares = self._genus_shares(list(split_of)) if labels else None
        names = [n for n in split_of if shares is None or any(s > MIN_AREA for s in shares[n].values())]
        self._series = self._find_series(names, needed=any(name not in IMAGES for name in modalities))
        for path in (self.folder / folder for name, folder in IMAGES.items() if name in modalities):
            there = {file.stem for file in path.glob("*.tif")}
            self._need([str(path / f"{n}.tif") for n in names if n not in there])
        super().__init__(
            names,
            [offered[name] for name in modalities],
            (SIDE, SIDE),
            task=None if shares is None else "multilabel",
            classes=() if shares is None else GENERA,
            labels=None
            if shares is None
            else torch.tensor([[float(shares[n].get(g, 0) > MIN_AREA) for g in GENERA] for n in names]),
            splits={
                split: [i for i, n in enumerate(names) if split_of[n] == split]
                for split in dict.fromkeys(split_of.values())
            },
        )

    # What there is.

    def _offered(self) -> dict[str, Modality]:
        """The modalities by name."""
        reflectance = "reflectance x 10000"
        offered = [Modality("aerial", "image", ("NIR", "G", "B", "R"), 0.2, PIXELS, "8 bit")]
        of_medians = []
        for name, sensor in SENSORS.items():
            unit = reflectance if name == "s2" else self.radar
            offered.append(Modality(name, "series", sensor.bands, 10.0, 1, unit))
            bands = [f"{band} {season}" for season in SEASONS for band in sensor.bands]
            names = sensor.bands if self.medians == "year" else tuple(bands)
            of_medians.append(Modality(f"{name}{MEDIAN}", "image", names, 10.0, 1, unit))
        offered.append(Modality("s2-mono", "image", BANDS, 10.0, 1, reflectance))
        offered.append(Modality("s1-mono", "image", SENSORS["s1-asc"].bands, 10.0, 1, "dB"))
        return {modality.name: modality for modality in offered + of_medians}

    def _split_lists(self) -> dict[str, str]:
        """Split by tile name, in the order of the lists."""
        found: dict[str, str] = {}
        for split in ("train", "val", "test"):
            for path in (self.folder / f"{split}_filenames.lst", self.folder / "split" / f"{split}_filenames.lst"):
                if not path.is_file():
                    continue
                with reading(path):
                    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
                for name in (Path(line).stem for line in lines if line):
                    if found.setdefault(name, split) != split:
                        raise ValueError(
                            f"{path}: {name} is on the list of {found[name]} too; a tile belongs to one split"
                        )
        if not found:
            raise ValueError(
                f"{self.folder}: no train_filenames.lst, val_filenames.lst or test_filenames.lst here or in split/; "
                "give the folder of TreeSatAI-TS (--data)"
            )
        return found

    def _genus_shares(self, names: list[str]) -> dict[str, dict[str, float]]:
        path = self.folder / LABELS
        table = read_json(path)
        missing = [n for n in names if f"{n}.tif" not in table]
        if missing:
            raise ValueError(
                f"{path}: no label for {len(missing)} of {len(names)} tiles, e.g. {missing[0]}.tif; complete the file "
                "or take these tiles off the lists, or pass labels=False"
            )
        shares = {n: {genus: float(share) for genus, share in table[f"{n}.tif"]} for n in names}
        foreign = sorted({g for s in shares.values() for g in s} - set(GENERA))
        if foreign:
            raise ValueError(f"{path}: unknown genus {', '.join(foreign)}; known are {', '.join(GENERA)}")
        return shares

    def _find_series(self, names: list[str], needed: bool) -> dict[str, Path]:
        """The h5 file of each tile; of several years the latest."""
        found: dict[str, Path] = {}
        wanted = set(names)
        for part in ("sentinel", "sentinel-ts"):
            for path in sorted((self.folder / part).glob("*.h5")):
                name = re.sub(r"_\d{4}$", "", path.stem)
                if name in found and name in wanted:
                    self._several.append(f"{path.name} and not {found[name].name}")
                found[name] = path
        self._need([f"{self.folder / 'sentinel-ts' / n}_<year>.h5" for n in names if needed and n not in found])
        return found

    @staticmethod
    def _need(missing: list[str]) -> None:
        if missing:
            fix = "missing; copy them, or take the tiles off the lists"
            raise ValueError(one_message(missing, f"TreeSatDataset: {len(missing)} files are {fix}"))

    def notes(self) -> list[str]:
        if not self._several:
            return []
        return [f"{len(self._several)} tiles have several files of series; the latest is read, e.g. {self._several[0]}"]

    def storage(self, modality: str) -> tuple[int, str]:
        return len(self), "uint8" if modality == "aerial" else "float32"

    # One tile.

    def _place(self, row: int) -> Geo | None:
        path = self.folder / "aerial" / f"{self._names[row]}.tif"
        if not path.is_file():
            return None
        with reading(path), open_raster(path) as image:
            return patch_grid(image, path)

    def _aerial_footprint(self, name: str) -> Footprint | None:
        path = self.folder / "aerial" / f"{name}.tif"
        if name not in self._footprints:
            self._footprints[name] = None
            if path.is_file():
                with reading(path), open_raster(path) as image:
                    self._footprints[name] = aerial_footprint(image, path)
        return self._footprints[name]

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        tile = Tile(self._names[row], {})
        years: set[int] = set()
        from_series = [m.name for m in self.modalities if m.name not in IMAGES]
        for name in (m.name for m in self.modalities if m.name in IMAGES):
            self._read_image(tile, name, rng)
        if from_series:
            path = self._series[tile.name]
            with decoding(path), h5py.File(path) as file:
                for name in from_series:
                    series = open_series(file, path, name.removesuffix(MEDIAN), self.max_cloud)
                    if name.endswith(MEDIAN):
                        self._read_median(tile, name, series)
                        continue
                    self._read_series(tile, name, series, rng)
                    years |= {series.year} if len(series.days) else set()
        if len(years) == 1:  # files hold one year; if series disagreed, one origin could not be true of all
            tile.origin = np.datetime64(f"{years.pop():04d}-01-01", "D")
        return tile

    def _read_image(self, tile: Tile, name: str, rng: np.random.Generator | None) -> None:
        path = self.folder / IMAGES[name] / f"{tile.name}.tif"
        if name == "aerial":
            pixels, observed, tile.geo = read_aerial(path, rng)
            put_image(tile, name, pixels, observed)
            return
        read = read_radar if name == "s1-mono" else read_reflectance
        found = read(path, self._aerial_footprint(tile.name))
        if found is not None:
            tile.values[name] = torch.from_numpy(found)

    def _read_series(self, tile: Tile, name: str, series: Series, rng: np.random.Generator | None) -> None:
        chosen = choose_dates(series.days, series.quality, self.max_dates, rng)
        values, valid = fill_gaps(series.values(chosen, self.radar), name=name)
        order = np.argsort(series.days[chosen], kind="stable")
        tile.values[name] = torch.from_numpy(values[order])
        tile.days[name] = torch.from_numpy(series.days[chosen][order])
        tile.valid[name] = torch.from_numpy(valid[order])

    def _read_median(self, tile: Tile, name: str, series: Series) -> None:
        found = medians(series, self.medians, self.radar)
        if found is None:
            return
        values, observed = found
        tile.values[name] = torch.from_numpy(values)
        if not observed.all():
            tile.observed[name] = torch.from_numpy(observed)
