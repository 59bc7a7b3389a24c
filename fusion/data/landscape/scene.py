"""The synthetic landscape as a whole: one seed, one map, and every product derived from it on demand."""

from __future__ import annotations

from functools import cached_property
from zlib import crc32

import numpy as np

from ..limits import check_count, check_size
from ..tiles import Geo
from .climate import LATITUDE, air_temperature
from .fields import Fields, Terrain, make_fields, make_terrain, smooth_noise
from .sensors import Optical, acquisition_days, aerial_image, optical_series, radar_series
from .vegetation import CLASSES, Canopy, grow, reflectance

__all__ = ["Landscape"]

FLIGHT = 172  # day of the aerial image


class Landscape:
    """A seeded, synthetic piece of farmland and forest. Nothing in it was measured anywhere.

    Parcels of known class carry phenology that varies by parcel and year; a Sentinel-2-like series (10 bands, cloud,
    shadow, haze, swath edges, irregular days), a Sentinel-1-like series (VV, VH, speckle), an aerial image (4 bands,
    texture by class) and terrain see the same ground. It serves to learn the package, to test it, and to tell whether
    a method can learn at all; scores on it say nothing about real landscapes.

    Products are made on first use and depend on ``seed`` and ``year`` only. North up, EPSG:32632, 10 m.

    Args:
        size: pixels of 10 m per side.
        seed: of the ground: parcels, terrain, soils.
        year: another year has other weather, crops stay where they are.
        field_metres: typical parcel width.
        fine: aerial pixels per 10 m; 8 gives 1.25 m.

    Raises:
        ValueError: a size too small for parcels, or no resolution at all.
    """

    origin = (600_000.0, 5_400_000.0)  # easting and northing of the upper left corner
    crs = "EPSG:32632"

    def __init__(
        self, size: int = 320, seed: int = 0, *, year: int = 2023, field_metres: float = 170.0, fine: int = 8
    ) -> None:
        for name, value, least in (("size", size, 1), ("seed", seed, 0), ("year", year, 1), ("fine", fine, 1)):
            check_count("Landscape", name, value, least)
        check_size("Landscape", "field_metres", field_metres)
        if size * 10 < 2 * field_metres or fine < 1:
            raise ValueError(
                f"Landscape: {size} pixels of 10 m hold no two parcels of {field_metres} m, or fine={fine} is not "
                "at least 1"
            )
        self.size, self.seed, self.year, self.field_metres, self.fine = size, seed, year, field_metres, fine

    def _rng(self, purpose: str, *, yearly: bool = False) -> np.random.Generator:
        """Each product has its own stream, so that none depends on which others were made before."""
        return np.random.default_rng((self.seed, crc32(purpose.encode()), self.year if yearly else 0))

    @property
    def geo(self) -> Geo:
        """Of the 10 m grid."""
        return Geo((10.0, 0.0, self.origin[0], 0.0, -10.0, self.origin[1]), self.crs)

    # The ground.

    @cached_property
    def terrain(self) -> Terrain:
        return make_terrain(self._rng("terrain"), self.size)

    @cached_property
    def fields(self) -> Fields:
        return make_fields(self._rng("fields"), self.size, self.fine, self.field_metres)

    @cached_property
    def parcel_class(self) -> np.ndarray:
        """(F,) index into CLASSES; forest and meadow prefer high ground, every class occurs."""
        rng = self._rng("classes")
        row, column = self.fields.centre.round().astype(int).clip(0, self.size - 1).T
        high = self.terrain.elevation[row, column]
        high = (high - high.mean()) / high.std()
        weight = np.array([1.0, 0.9, 0.9, 1.0, 0.9, 1.0, 0.9, 1.1])
        climb = np.array([-0.2, -0.1, -0.1, -0.2, -0.3, 0.3, 0.0, 0.4])
        score = np.log(weight) + high[:, None] * climb + rng.gumbel(size=(len(self.fields), len(CLASSES)))
        drawn: np.ndarray = score.argmax(axis=1)
        return drawn

    @cached_property
    def class_share(self) -> np.ndarray:
        """(H, W, classes) float32: the truth, share of each class in each 10 m pixel."""
        one_hot = np.eye(len(CLASSES), dtype=np.float32)[self.parcel_class]
        share: np.ndarray = self.fields.mixing @ one_hot
        return share.reshape(self.size, self.size, -1)

    @cached_property
    def _traits(self) -> dict[str, np.ndarray]:
        """Per parcel (F,): what differs between parcels of a class."""
        rng, count = self._rng("traits"), len(self.fields)
        weather = self._rng("weather", yearly=True)
        row, column = self.fields.centre.round().astype(int).clip(0, self.size - 1).T
        elevation, wetness = self.terrain.elevation[row, column], self.terrain.wetness[row, column]
        soil = rng.lognormal(0, 0.28, count)
        season = weather.normal(0, 5) + weather.normal(0, 2.5, len(CLASSES))[self.parcel_class]
        age = rng.beta(1.5, 1.5, count)
        forest, orchard = (self.parcel_class == CLASSES.index(name) for name in ("forest", "orchard"))
        return {
            "vigour": (1 + 0.06 * np.tanh(wetness) + rng.normal(0, 0.06, count)).clip(0.75, 1.1),
            "delay": season + rng.normal(0, 5.5, count) + 0.02 * (elevation - 450),
            "conifer": rng.beta(0.6, 0.9, count),
            "soil": np.stack([soil, soil * rng.lognormal(-0.05 * wetness, 0.08)], axis=1),
            "roughness": rng.normal(0, 1.3, count),
            "structure": rng.normal(0, 0.8, count),
            "age": age,
            "wood": np.where(forest, 0.5 + 0.5 * age, np.where(orchard, 0.35, 0.0)),
            "cuts": rng.random((count, 3)),
        }

    def _canopy(self, days: np.ndarray, parcels: np.ndarray | slice = slice(None)) -> Canopy:
        t = self._traits
        return grow(
            self.parcel_class[parcels],
            days,
            vigour=t["vigour"][parcels],
            delay=t["delay"][parcels],
            conifer=t["conifer"][parcels],
            events=t["cuts"][parcels],
        )

    def _spectra(self, canopy: Canopy, rng: np.random.Generator) -> np.ndarray:
        """(F, L, bands) reflectance as one sensor sees it: its sun, view and moisture change soils and leaves."""
        count = len(self.fields)
        soil = self._traits["soil"] * np.exp(rng.normal(0, 0.15, (count, 2)))
        leaves = np.exp(rng.normal(0, 0.14, (count, 2)))
        return reflectance(canopy, self.parcel_class, soil=soil, leaves=leaves, conifer=self._traits["conifer"])

    @cached_property
    def _patchiness(self) -> np.ndarray:
        """(H, W) float32, how plants vary within parcels."""
        rng = self._rng("patchiness")
        return 0.7 * smooth_noise(rng, self.size, 5) + 0.5 * rng.standard_normal((self.size, self.size), np.float32)

    @cached_property
    def biomass(self) -> np.ndarray:
        """(H, W) float32 above-ground biomass in t/ha: by class, age of trees, elevation, moisture and vigour."""
        t, k = self._traits, self.parcel_class
        typical = np.array([11.0, 9.0, 8.0, 15.0, 9.0, 4.0, 35.0, 40.0])[k] * t["vigour"] ** 2
        typical = typical + np.where(k == CLASSES.index("forest"), 240 * t["age"] * (0.7 + 0.5 * t["conifer"]), 0)
        per_pixel = (self.fields.mixing @ typical).reshape(self.size, self.size)
        height = 1 - 0.0012 * (self.terrain.elevation - 450)
        moisture = 1 + 0.12 * np.tanh(self.terrain.wetness)
        biomass: np.ndarray = per_pixel * height * moisture * (1 + 0.05 * self._patchiness)
        return biomass.clip(min=0).astype(np.float32)

    def production(
        self,
        days: np.ndarray,
        rows: slice = slice(None),
        columns: slice = slice(None),
        *,
        latitude: float = LATITUDE,
        snow: float = 0.0,
    ) -> np.ndarray:
        """(L, h, w) float32 gross primary production in g C m-2 d-1 on days of the year (1..365), of a window.

        Light-use efficiency (Monteith 1972): efficiency of the class (maize, a C4 plant, the highest) x green cover x
        daylight of the season x a ramp with air temperature from 0 to 20 degC. ``latitude`` and ``snow`` act on the
        temperature alone.
        """
        days = np.asarray(days)
        efficiency = np.array([1.5, 1.5, 1.5, 2.3, 1.7, 1.2, 1.2, 1.4])[self.parcel_class] * self._traits["vigour"]
        light = 7.0 - 4.5 * np.cos(2 * np.pi * (days + 10) / 365)  # MJ m-2 d-1 that plants can use
        pixels = np.arange(self.size**2).reshape(self.size, self.size)[rows, columns]
        mixing = self.fields.mixing[pixels.ravel()]
        parcels = np.unique(mixing.indices)  # a window needs the plants of its own parcels alone
        green = efficiency[parcels, None] * self._canopy(days, parcels).green
        canopy = (mixing[:, parcels] @ green).T.reshape(len(days), *pixels.shape)
        warmth = (self.temperature(rows, columns, latitude, snow=snow)[days - 1] / 20).clip(0, 1)
        production: np.ndarray = canopy * light[:, None, None] * warmth
        return production.astype(np.float32)

    # What the sensors see.

    @cached_property
    def optical(self) -> Optical:
        rng = self._rng("optical", yearly=True)
        days = acquisition_days(rng, 5, 0.45)
        canopy = self._canopy(days)
        spectra = self._spectra(canopy, rng)
        return optical_series(rng, days, spectra, canopy.green, self.fields, self.terrain, self._patchiness)

    @cached_property
    def radar(self) -> tuple[np.ndarray, np.ndarray]:
        """Days (L,) and values (L, 2, H, W) float32 in dB."""
        rng, t = self._rng("radar", yearly=True), self._traits
        days = acquisition_days(rng, 12, 0.85)
        canopy = self._canopy(days)
        return days, radar_series(
            rng,
            days,
            canopy,
            self.parcel_class,
            roughness=t["roughness"],
            structure=t["structure"],
            wood=t["wood"],
            fields=self.fields,
            terrain=self.terrain,
        )

    @cached_property
    def aerial(self) -> np.ndarray:
        """(4, H*fine, W*fine) uint8: near infrared, green, blue, red, on one summer day."""
        rng, age = self._rng("aerial", yearly=True), self._traits["age"]
        colour = self._spectra(self._canopy(np.array([FLIGHT])), rng)[:, 0, [6, 1, 0, 2]]
        return aerial_image(rng, colour, self.parcel_class, age, self.fields, self.terrain, 10 / self.fine)

    @cached_property
    def _weather(self) -> np.ndarray:
        """(365,) departure of the day from the season, K; the weather remembers."""
        rng = self._rng("temperature", yearly=True)
        days = np.zeros(365)
        for day in range(1, 365):
            days[day] = 0.8 * days[day - 1] + rng.normal(0, 1.7)
        return days

    @cached_property
    def trees(self) -> np.ndarray:
        """(H, W) float32 share of orchard and forest."""
        share: np.ndarray = self.class_share[..., CLASSES.index("orchard") :].sum(axis=-1)
        return share

    def temperature(
        self,
        rows: slice = slice(None),
        columns: slice = slice(None),
        latitude: float = LATITUDE,
        *,
        snow: float = 0.0,
        raised: float = 0.0,
        trees: np.ndarray | None = None,
    ) -> np.ndarray:
        """(365, h, w) float32 daily mean air temperature in degC near the ground of a window of the 10 m grid.

        The weather is common to the scene; see :func:`~fusion.data.landscape.climate.air_temperature` for the rest.

        Args:
            raised: m added to the elevation, ``trees`` (h, w) instead of the own ones: what would be, had the ground
                been another.
        """
        elevation, wetness = self.terrain.elevation[rows, columns] + raised, self.terrain.wetness[rows, columns]
        trees = self.trees[rows, columns] if trees is None else trees
        return air_temperature(elevation, wetness, trees, self._weather, latitude=float(latitude), snow=snow)
