"""The h5 files of TreeSatAI-TS: dates, data and masks of one series, and its medians."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from .files import need_keys
from .given import unpacked
from .opening import hdf5_dataset

__all__ = ["BANDS", "NOISE", "SEASONS", "SENSORS", "SIDE", "Series", "medians", "open_series"]

SIDE = 6  # pixels of 10 m, and patches, per side
CLOUDY = 10.0  # per cent: a pixel of larger cloud or snow probability is covered; at 50 bright cloud passes
NOISE = 1e-5  # linear backscatter (-50 dB), far below what the radar can measure: no observation
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SEASONS = ("winter", "spring", "summer", "autumn")  # winter is December, January and February


@dataclass(frozen=True)
class Sensor:
    """``key`` of its arrays in the h5 file; ``field`` of the product name, split at "_", that begins with the date."""

    key: str
    field: int
    bands: tuple[str, ...]


SENSORS = {
    "s2": Sensor("sen-2", 2, BANDS),
    "s1-asc": Sensor("sen-1-asc", 4, ("VV", "VH")),
    "s1-des": Sensor("sen-1-des", 4, ("VV", "VH")),
}


@dataclass
class Series:
    """One series in an open file; only what is asked for is read.

    Attributes:
        days: (L,) since 1 January of ``year``, which is that of most products (0 without dates).
        clear: (L, 6, 6) bool, free of cloud and snow; None where nothing is known or asked.
        quality: (L,) the clear share, 0 for a date that must not be used.
    """

    sensor: Sensor
    data: h5py.Dataset
    days: np.ndarray
    year: int
    clear: np.ndarray | None
    quality: np.ndarray

    def values(self, chosen: np.ndarray, radar: Literal["dB", "linear"]) -> np.ndarray:
        """(L, C, 6, 6) float32 of some dates, NaN under cloud or without backscatter."""
        values: np.ndarray = self.data[chosen].astype(np.float32)
        if self.clear is not None:
            values = np.where(self.clear[chosen][:, None], values, np.float32(np.nan))
        if self.sensor.key != "sen-2":
            values[values < NOISE] = np.nan
            if radar == "dB":
                values = 10 * np.log10(values)
        return values


def open_series(file: h5py.File, path: Path, name: str, max_cloud: float) -> Series:
    """
    Args:
        name: of the modality.
        max_cloud: largest share of a usable date under cloud or snow; 1 takes every date and needs no mask.

    Raises:
        ValueError: an array that the file lacks or that has another shape, or dates that do not match the data.
    """
    sensor = SENSORS[name]
    need_keys(path, list(file), [f"{sensor.key}-data", f"{sensor.key}-products"])
    data = hdf5_dataset(file, f"{sensor.key}-data")
    unpacked(data, f"{path}: {sensor.key}-data")
    expected = (len(sensor.bands), SIDE, SIDE)
    if data.shape[1:] != expected:
        raise ValueError(
            f"{path}: {sensor.key}-data has shape {data.shape}, (dates, {expected[0]}, {SIDE}, {SIDE}) wanted: "
            f"bands {', '.join(sensor.bands)}"
        )
    days, year = _days(path, sensor, [p.decode() for p in hdf5_dataset(file, f"{sensor.key}-products")[()]])
    if len(days) != len(data):
        raise ValueError(
            f"{path}: {len(data)} dates in {sensor.key}-data but {len(days)} in {sensor.key}-products; the dates "
            "would be wrong. Take the original file: cleaned copies drop dates from one and not from the other"
        )
    clear = _clear(file, path, len(data)) if name == "s2" and max_cloud < 1 else None
    quality = np.ones(len(data))
    if clear is not None:
        quality = clear.mean(axis=(1, 2))
        quality[quality < 1 - max_cloud] = 0
    return Series(sensor, data, days, year, clear, quality)


def _clear(file: h5py.File, path: Path, dates: int) -> np.ndarray:
    """(L, 6, 6) bool, free of cloud and snow."""
    need_keys(path, list(file), ["sen-2-masks"])
    masks = hdf5_dataset(file, "sen-2-masks")
    if masks.ndim != 4 or masks.shape[0] != dates or masks.shape[1] < 2:
        raise ValueError(
            f"{path}: sen-2-masks has shape {masks.shape}, ({dates}, 2, {SIDE}, {SIDE}) wanted: snow and cloud "
            "probability. max_cloud=1 does without it"
        )
    return np.asarray((masks[:, :2] <= CLOUDY).all(axis=1))  # other channels are filling in some files


def _days(path: Path, sensor: Sensor, products: list[str]) -> tuple[np.ndarray, int]:
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


def medians(
    series: Series, by: Literal["season", "year"], radar: Literal["dB", "linear"]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Per pixel and band the median of the usable dates, of each season or of the whole year.

    Where a pixel has no observation in a season it takes its median of the year, and where it has none at all, that of
    the band in the tile.

    Returns:
        (C, 6, 6) float32, of seasons (4 x C, 6, 6) season by season; and bool of the same shape, where it was observed.
        None where a band was never observed.
    """
    usable = np.flatnonzero(series.quality > 0)
    values = series.values(usable, radar)  # (L, C, 6, 6)
    annual = _median(values)
    level = _median(annual.reshape(len(annual), -1).T)[:, None, None]
    if np.isnan(level).any():
        return None
    filled = np.where(np.isnan(annual), level, annual)
    if by == "year":
        return filled, ~np.isnan(annual)
    january = np.datetime64(f"{series.year:04d}-01-01", "D")
    months = (january + series.days[usable]).astype("datetime64[M]").astype(np.int64) % 12  # 0 is January
    season = (months + 1) % 12 // 3
    found = np.concatenate([_median(values[season == k]) for k in range(len(SEASONS))])  # (4 x C, 6, 6)
    return np.where(np.isnan(found), np.tile(filled, (len(SEASONS), 1, 1)), found), ~np.isnan(found)


def _median(values: np.ndarray) -> np.ndarray:
    """Over the first axis, NaN left out, and NaN where nothing else is; NumPy's own warns of the latter."""
    if not len(values):
        return np.full(values.shape[1:], np.nan, dtype=np.float32)
    ordered = np.sort(values, axis=0)  # NaN last
    count = (~np.isnan(values)).sum(axis=0, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(count - 1, 0) // 2, axis=0)
    high = np.take_along_axis(ordered, np.minimum(count // 2, len(values) - 1), axis=0)
    middle: np.ndarray = ((low + high) / 2)[0]
    return middle
