"""TreeSatAI Time Series (Ahlswede et al. 2022; Astruc et al. 2024), read from its own files.

::

    FOLDER/
      train_filenames.lst  val_filenames.lst  test_filenames.lst      names of tif files; also under split/
      labels/TreeSatBA_v9_60m_multi_labels.json                       {tif name: [[genus, area share], ...]}
      aerial/<name>.tif                                               uint8 (4, 304, 304), 0.2 m
      sentinel-ts/<name>_<year>.h5   (or sentinel/<name>.h5)          series of 6 x 6 pixels of 10 m

Known faults of the files, handled here: Sentinel-1 dates that are NaN as a whole or in part (and the product list
that then no longer matches data cleaned elsewhere), next to no backscatter at the border of a swath, mask arrays with
ten channels of which two mean something, file names with or without a year.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import rasterio
import torch
from rasterio.windows import Window

from .dataset import TileDataset
from .files import need_keys, one_message, reading
from .modality import Modality
from .series import choose_dates, fill_gaps
from .tiles import Geo, Tile

__all__ = ["GENERA", "TreeSatDataset"]

GENERA = (
    "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus", "Populus",
    "Prunus", "Pseudotsuga", "Quercus", "Tilia",
)  # fmt: skip
LABELS = "labels/TreeSatBA_v9_60m_multi_labels.json"
MIN_AREA = 0.07  # a genus counts above this share of the tile
SIDE, PIXELS = 6, 50  # patches per side; aerial pixels per patch
CROP = SIDE * PIXELS
CLOUDY = 10.0  # per cent: a pixel of larger cloud or snow probability is covered; at 50 bright cloud passes
NOISE = 1e-5  # linear backscatter (-50 dB), far below what the radar can measure: no observation


@dataclass(frozen=True)
class _Sensor:
    key: str  # in the h5 file
    field: int  # of the product name, split at "_", that begins with the date
    bands: tuple[str, ...]


_SENSORS = {
    "s2": _Sensor("sen-2", 2, ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")),
    "s1-asc": _Sensor("sen-1-asc", 4, ("VV", "VH")),
    "s1-des": _Sensor("sen-1-des", 4, ("VV", "VH")),
}


class TreeSatDataset(TileDataset):
    """Tiles of 60 m with tree genera; splits ``train``, ``val``, ``test`` as far as their lists exist.

    ========  ======  ==============================================  ===========================
    modality  kind    bands                                           unit
    ========  ======  ==============================================  ===========================
    aerial    image   near infrared, green, blue, red (0.2 m)         8 bit
    s2        series  B02 B03 B04 B05 B06 B07 B08 B8A B11 B12 (10 m)  reflectance x 10000
    s1-asc    series  VV VH (10 m)                                    dB, or linear
    s1-des    series  VV VH (10 m)                                    dB, or linear
    ========  ======  ==============================================  ===========================

    Days count from 1 January of the year of most products. The aerial image is cut to 300 x 300 pixels, 50 for each
    patch of 10 m: from the centre, or anywhere in a random view. A series comes with at most ``max_dates`` dates:
    spread evenly and clear of cloud, or drawn at random in a random view. Only these dates are read. Missing pixels
    (cloud, snow, no backscatter) take the tile's mean of their date and band.

    Args:
        folder: with the layout above.
        modalities: which, in what order.
        labels: False for pre-training without the label file; then tiles without a genus above 7 % are kept too.
        max_dates: at most so many dates per series; None for all.
        max_cloud: largest share of the tile under cloud or snow (probability above 10 %) of a usable Sentinel-2
            date; 1 takes every date.
        radar: ``"dB"``, or ``"linear"`` as stored.

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
    ) -> None:
        self.folder, self.radar = Path(folder), radar
        self.max_dates, self.max_cloud = max_dates, max_cloud
        offered = {"aerial": Modality("aerial", "image", ("NIR", "G", "B", "R"), 0.2, PIXELS, "8 bit")}
        for name, sensor in _SENSORS.items():
            unit = "reflectance x 10000" if name == "s2" else radar
            offered[name] = Modality(name, "series", sensor.bands, 10.0, 1, unit)
        unknown = [name for name in modalities if name not in offered]
        if unknown or not modalities:
            raise ValueError(f"TreeSatDataset: modalities {unknown or modalities} unknown; it has {', '.join(offered)}")
        if radar not in ("dB", "linear"):
            raise ValueError(f"TreeSatDataset: radar is 'dB' or 'linear', not {radar!r}")
        split_of = self._split_lists()
        shares = self._genus_shares(list(split_of)) if labels else None
        names = [n for n in split_of if shares is None or any(s > MIN_AREA for s in shares[n].values())]
        self._series = self._find_series(names, needed=any(name != "aerial" for name in modalities))
        there = {path.stem for path in (self.folder / "aerial").glob("*.tif")} if "aerial" in modalities else set(names)
        self._need([str(self.folder / "aerial" / f"{n}.tif") for n in names if n not in there])
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

    def _split_lists(self) -> dict[str, str]:
        """Split by tile name, in the order of the lists."""
        found: dict[str, str] = {}
        for split in ("train", "val", "test"):
            for path in (self.folder / f"{split}_filenames.lst", self.folder / "split" / f"{split}_filenames.lst"):
                if path.is_file():
                    found |= {Path(line.strip()).stem: split for line in path.read_text().splitlines() if line.strip()}
        if not found:
            raise ValueError(
                f"{self.folder}: no train_filenames.lst, val_filenames.lst or test_filenames.lst here or in split/; "
                "give the folder of TreeSatAI-TS (--data)"
            )
        return found

    def _genus_shares(self, names: list[str]) -> dict[str, dict[str, float]]:
        path = self.folder / LABELS
        with reading(path):
            text = path.read_text()
        try:
            table = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: is not JSON ({error}); copy or download it again") from error
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
        for part in ("sentinel", "sentinel-ts"):
            for path in sorted((self.folder / part).glob("*.h5")):
                found[re.sub(r"_\d{4}$", "", path.stem)] = path
        self._need([f"{self.folder / 'sentinel-ts' / n}_<year>.h5" for n in names if needed and n not in found])
        return found

    @staticmethod
    def _need(missing: list[str]) -> None:
        if missing:
            fix = "missing; copy them, or take the tiles off the lists"
            raise ValueError(one_message(missing, f"TreeSatDataset: {len(missing)} files are {fix}"))

    def storage(self, modality: str) -> tuple[int, str]:
        return len(self), "uint8" if modality == "aerial" else "float32"

    # One tile.

    def _place(self, row: int) -> Geo | None:
        path = self.folder / "aerial" / f"{self._names[row]}.tif"
        if not path.is_file():
            return None
        with reading(path), rasterio.open(path) as image:
            return self._patch_grid(image)

    @staticmethod
    def _patch_grid(image: rasterio.DatasetReader) -> Geo:
        """Of the 10 m patches over the central crop."""
        left = image.transform.c + image.transform.a * ((image.width - CROP) // 2)
        top = image.transform.f + image.transform.e * ((image.height - CROP) // 2)
        # The files spell the CRS out without its number.
        return Geo((10.0, 0.0, round(left, 1), 0.0, -10.0, round(top, 1)), "EPSG:25832")

    def _read(self, row: int, rng: np.random.Generator | None) -> Tile:
        tile = Tile(self._names[row], {})
        years: set[int] = set()
        for modality in self.modalities:
            if modality.name == "aerial":
                self._read_aerial(tile, rng)
        series = [m.name for m in self.modalities if m.name != "aerial"]
        if series:
            path = self._series[tile.name]
            with reading(path), h5py.File(path) as file:
                for name in series:
                    years |= self._read_series(tile, name, file, path, rng)
        if len(years) == 1:  # files hold one year; if series disagreed, one origin could not be true of all
            tile.origin = np.datetime64(f"{years.pop():04d}-01-01", "D")
        return tile

    def _read_aerial(self, tile: Tile, rng: np.random.Generator | None) -> None:
        path = self.folder / "aerial" / f"{tile.name}.tif"
        with reading(path), rasterio.open(path) as image:
            if image.count != 4 or min(image.height, image.width) < CROP:
                raise ValueError(
                    f"{path}: {image.count} bands of {image.height} x {image.width} pixels; 4 (near infrared, green, "
                    f"blue, red) of at least {CROP} x {CROP} wanted"
                )
            spare = np.array([image.height, image.width]) - CROP
            top, left = spare // 2 if rng is None else rng.integers(0, spare + 1)
            pixels = image.read(window=Window(int(left), int(top), CROP, CROP))
            tile.geo = self._patch_grid(image)
        tile.values["aerial"] = torch.from_numpy(pixels.astype(np.float32))

    def _read_series(
        self, tile: Tile, name: str, file: h5py.File, path: Path, rng: np.random.Generator | None
    ) -> set[int]:
        """Puts one series into the tile; returns its year, none if there is no date."""
        sensor = _SENSORS[name]
        need_keys(path, list(file), [f"{sensor.key}-data", f"{sensor.key}-products"])
        data = file[f"{sensor.key}-data"]
        expected = (len(sensor.bands), SIDE, SIDE)
        if data.shape[1:] != expected:
            raise ValueError(
                f"{path}: {sensor.key}-data has shape {data.shape}, (dates, {expected[0]}, {SIDE}, {SIDE}) wanted: "
                f"bands {', '.join(sensor.bands)}"
            )
        days, year = _days(path, sensor, [p.decode() for p in file[f"{sensor.key}-products"][()]])
        if len(days) != len(data):
            raise ValueError(
                f"{path}: {len(data)} dates in {sensor.key}-data but {len(days)} in {sensor.key}-products; the dates "
                "would be wrong. Take the original file: cleaned copies drop dates from one and not from the other"
            )
        clear = self._clear(file, path, len(data)) if name == "s2" and self.max_cloud < 1 else None
        quality = np.ones(len(data))
        if clear is not None:
            quality = clear.mean(axis=(1, 2))
            quality[quality < 1 - self.max_cloud] = 0
        chosen = choose_dates(days, quality, self.max_dates, rng)
        values = data[chosen].astype(np.float32)
        if clear is not None:
            values = np.where(clear[chosen][:, None], values, np.float32(np.nan))
        if name != "s2":
            values[values < NOISE] = np.nan
            if self.radar == "dB":
                values = 10 * np.log10(values)
        values, valid = fill_gaps(values)
        order = np.argsort(days[chosen], kind="stable")
        tile.values[name] = torch.from_numpy(values[order])
        tile.days[name] = torch.from_numpy(days[chosen][order])
        tile.valid[name] = torch.from_numpy(valid[order])
        return {year} if len(days) else set()

    def _clear(self, file: h5py.File, path: Path, dates: int) -> np.ndarray:
        """(L, 6, 6) bool, free of cloud and snow."""
        need_keys(path, list(file), ["sen-2-masks"])
        masks = file["sen-2-masks"]
        if masks.ndim != 4 or masks.shape[0] != dates or masks.shape[1] < 2:
            raise ValueError(
                f"{path}: sen-2-masks has shape {masks.shape}, ({dates}, 2, {SIDE}, {SIDE}) wanted: snow and cloud "
                "probability. max_cloud=1 does without it"
            )
        return np.asarray((masks[:, :2] <= CLOUDY).all(axis=1))  # other channels are filling in some files


def _days(path: Path, sensor: _Sensor, products: list[str]) -> tuple[np.ndarray, int]:
    """(L,) int64 days since 1 January of the year of the series, and that year, which is the year of most products."""
    try:
        dates = [datetime.strptime(p.split("_")[sensor.field][:8], "%Y%m%d").date() for p in products]
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path}: {sensor.key}-products holds a name without a date ({error})") from error
    if not dates:
        return np.zeros(0, dtype=np.int64), 0
    years = [d.year for d in dates]
    year = max(set(years), key=years.count)
    return np.array([(d - date(year, 1, 1)).days for d in dates], dtype=np.int64), year
