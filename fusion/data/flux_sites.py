"""Satellite bands, weather and gross primary production (GPP) at eddy-covariance sites, from one table."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .cubes import Cube, SensorCube
from .files import need_keys, reading
from .given import calendar_dates
from .modality import Modality

__all__ = ["FluxSites", "read_flux_sites"]

_MISSING = -9999.0
_FILE = "hls_merra_gpp_sites.csv"
_BANDS = {"blue": "b2", "green": "b3", "red": "b4", "nir": "b5", "swir1": "b6", "swir2": "b7"}
_WEATHER = (
    "T2MIN", "T2MAX", "T2MEAN", "TSMDEWMEAN", "GWETROOT", "LHLAND", "SHLAND", "SWLAND", "PARDFLAND", "PRECTOTLAND",
)  # fmt: skip


@dataclass(frozen=True)
class FluxSites:
    """The rows of the table, one an image, and the same as one cube of a single pixel a site.

    Attributes:
        cubes: one a site, with the sensors ``hls`` (reflectance, the mean of 50 x 50 pixels of 30 m) and ``weather``
            (MERRA-2) on the same dates.
        bands, weather, gpp: (N, 6) float32; (N, 10) float32; (N,) float64 in g C m-2 d-1.
        site, year: (N,) text.
        day: (N,) int64 days since 1970-01-01.
        rows: by site, its rows in the order of time.
    """

    cubes: list[Cube]
    bands: np.ndarray
    weather: np.ndarray
    gpp: np.ndarray
    site: np.ndarray
    year: np.ndarray
    day: np.ndarray
    rows: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.gpp)

    def __str__(self) -> str:
        return f"{len(self)} images at {len(self.cubes)} flux sites, {min(self.year)} to {max(self.year)}"

    def cubes_of(self, rows: np.ndarray) -> list[Cube]:
        """The cubes with only these ``rows`` in them, of sites that have any."""
        kept = np.zeros(len(self), dtype=bool)
        kept[rows] = True
        cubes = []
        for cube in self.cubes:
            own = kept[self.rows[cube.name]]
            if own.any():
                parts = {n: SensorCube(s.modality, s.dates[own], s.values[own]) for n, s in cube.sensors.items()}
                cubes.append(Cube(cube.name, parts))
        return cubes


def read_flux_sites(folder: str | Path) -> FluxSites:
    """``hls_merra_gpp_sites.csv`` of a folder: Harmonized Landsat and Sentinel-2 and MERRA-2 at sites of FLUXNET.

    Raises:
        ValueError: there is no such file, it is damaged or lacks a column, or a row lacks a value (-9999, the mark of
            FLUXNET for a missing one, is none), has no date, or has the site and date of another.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; --data is the folder that holds it")
    with reading(path), open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        table, columns = list(reader), reader.fieldnames or ()
    need_keys(path, columns, ["SITE_ID", "year", "date", "GPP", *_BANDS.values(), *_WEATHER])
    if not table:
        raise ValueError(f"{path}: has no row below its header; copy or download it again")

    def column(names: Sequence[str]) -> np.ndarray:
        try:
            values = np.array([[row[name] or "nan" for name in names] for row in table], dtype=np.float32)
        except ValueError as error:
            raise ValueError(f"{path}: a value of {', '.join(names)} is no number ({error})") from error
        wrong = ~np.isfinite(values) | (values == _MISSING)
        if wrong.any():
            row, name = np.argwhere(wrong)[0]
            mark = f" ({_MISSING:g} means missing)" if values[row, name] == _MISSING else ""
            raise ValueError(f"{path}: row {row + 2} has no value of {names[name]}{mark}")
        return values

    bands, weather = column(tuple(_BANDS.values())), column(_WEATHER)
    gpp = column(("GPP",))[:, 0].astype(np.float64)
    site, year = (np.array([row[name] for row in table]) for name in ("SITE_ID", "year"))
    day = calendar_dates([row["date"] for row in table], f"{path}: column date").astype(np.int64)
    optical = Modality("hls", "series", tuple(_BANDS), 30.0, 1, "reflectance")
    met = Modality("weather", "series", _WEATHER, 30.0, 1, "MERRA-2")
    cubes, rows = [], {}
    for name in np.unique(site):
        own = np.flatnonzero(site == name)
        rows[str(name)] = own = own[np.argsort(day[own], kind="stable")]
        again = np.flatnonzero(np.diff(day[own]) == 0)
        if len(again):
            first, second = sorted(own[again[0] : again[0] + 2] + 2)
            raise ValueError(
                f"{path}: rows {first} and {second} are both {name} on {table[first - 2]['date']}; keep one"
            )
        sensors = {
            "hls": SensorCube(optical, day[own], bands[own][..., None, None]),
            "weather": SensorCube(met, day[own], weather[own][..., None, None]),
        }
        cubes.append(Cube(str(name), sensors))
    return FluxSites(cubes, bands, weather, gpp, site, year, day, rows)
