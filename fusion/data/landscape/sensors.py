"""How the sensors see the synthetic landscape: optical series, radar series, one aerial image, with their faults."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .fields import Fields, Terrain, smooth_noise
from .vegetation import BANDS, CLASSES, Canopy

__all__ = ["Optical", "acquisition_days", "aerial_image", "optical_series", "radar_series"]


def acquisition_days(rng: np.random.Generator, revisit: int, kept: float) -> np.ndarray:
    """Days of one year (1..365) from a regular orbit of which only a share was acquired."""
    days = np.arange(1 + rng.integers(revisit), 366, revisit)
    return days[rng.random(len(days)) < kept]


@dataclass(frozen=True)
class Optical:
    """A Sentinel-2-like series.

    Attributes:
        days: (L,) day of the year.
        values: (L, bands, H, W) int16 reflectance x 10000, 0 = outside the swath.
        clear: (L, H, W) bool as a cloud mask would tell; it misses thin cloud and some shadow.
    """

    days: np.ndarray
    values: np.ndarray
    clear: np.ndarray


def optical_series(
    rng: np.random.Generator,
    days: np.ndarray,
    spectra: np.ndarray,
    greenness: np.ndarray,
    fields: Fields,
    terrain: Terrain,
    patchiness: np.ndarray,
) -> Optical:
    """Mixes parcels into pixels, then adds illumination, haze, calibration, cloud, shadow and swath edges.

    Args:
        spectra: (F, L, bands) surface reflectance of the parcels.
        greenness: (F, L) green cover, through which within-field ``patchiness`` (H, W) acts.
    """
    size = terrain.elevation.shape[0]
    values = np.empty((len(days), len(BANDS), size, size), dtype=np.int16)
    clear = np.empty((len(days), size, size), dtype=bool)
    wavelength = np.array([0.49, 0.56, 0.665, 0.705, 0.74, 0.783, 0.842, 0.865, 1.61, 2.19])
    scatter = (0.49 / wavelength) ** 1.6
    vary = np.array([-0.10, -0.10, -0.16, -0.10, 0.05, 0.10, 0.12, 0.12, -0.06, -0.10])
    overcast = rng.random(len(days))
    swath = rng.uniform(0.3, 0.7) * size
    diagonal = np.add.outer(0.25 * np.arange(size), np.arange(size))
    for l, day in enumerate(days):
        surface = (fields.mixing @ spectra[:, l]).reshape(size, size, -1)  # (H, W, bands)
        green = (fields.mixing @ greenness[:, l]).reshape(size, size)
        surface = surface * (1 + (patchiness * green)[..., None] * vary)
        height = np.radians(40 + 24 * np.cos(2 * np.pi * (day - 172) / 365))  # sun in the south-east
        tilt = 0.7 * terrain.slope_east + 0.7 * terrain.slope_south
        light = (1 + tilt / np.tan(height)).clip(0.4, 1.6)
        surface = surface * light[..., None]
        haze = np.exp(-3.2 + 0.9 * smooth_noise(rng, size, 60) + 0.5 * rng.standard_normal()).clip(max=0.4)
        surface = surface * (1 - haze[..., None]) + haze[..., None] * 0.45 * scatter
        surface = surface * rng.normal(1, 0.04, len(BANDS)) + rng.normal(0, 0.004, len(BANDS))
        cloud, cast = _clouds(rng, size, overcast[l])
        surface = surface * (1 - 0.55 * cast[..., None])
        surface = surface * (1 - cloud[..., None]) + cloud[..., None] * (0.55 + 0.1 * scatter)
        surface += rng.normal(0, 0.004, surface.shape)
        digital = (surface * 10000).clip(1, 15000).astype(np.int16)
        if l % 3 == 1:  # every third pass is a neighbouring orbit that covers a part only
            digital[diagonal > swath + 0.6 * size] = 0
        values[l] = digital.transpose(2, 0, 1)
        clear[l] = (cloud < rng.uniform(0.15, 0.5)) & (cast < rng.uniform(0.4, 1.0)) & (values[l, 0] > 0)
    return Optical(days, values, clear)


def _clouds(rng: np.random.Generator, size: int, overcast: float) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of cloud and of its shadow, (H, W) each; ``overcast`` uniform in 0..1 sets the cover of the day."""
    cover = 0.02 if overcast < 0.3 else min(1.0, 1.6 * (overcast - 0.3))
    shape = smooth_noise(rng, size, 45) + 0.4 * smooth_noise(rng, size, 12)
    edge = np.quantile(shape, 1 - cover)
    cloud = 1 / (1 + np.exp(-np.clip((shape - edge) / 0.12, -30, 30)))
    shadow = np.roll(cloud, (-9, -7), axis=(0, 1)) * (1 - cloud)
    return cloud.astype(np.float32), shadow.astype(np.float32)


# Water-cloud model (Attema and Ulaby 1978), per class: canopy backscatter VV and VH in dB, attenuation per cover.
_CANOPY = {
    "wheat": (-15.0, -21.0, 1.7),
    "barley": (-14.2, -19.6, 1.6),
    "rapeseed": (-10.0, -14.8, 1.6),
    "maize": (-9.8, -15.8, 1.3),
    "beet": (-9.0, -14.8, 1.3),
    "meadow": (-12.8, -19.5, 0.9),
    "orchard": (-9.2, -15.2, 1.5),
    "forest": (-8.8, -13.8, 2.2),
}


def radar_series(
    rng: np.random.Generator,
    days: np.ndarray,
    canopy: Canopy,
    classes: np.ndarray,
    *,
    roughness: np.ndarray,
    structure: np.ndarray,
    wood: np.ndarray,
    fields: Fields,
    terrain: Terrain,
    looks: float = 4.0,
) -> np.ndarray:
    """(L, 2, H, W) float32 VV and VH in dB: canopy over rough, more or less moist soil; showers; slope; speckle.

    Args:
        roughness, structure: (F,) dB added by the tillage of the soil and by the build of the plants.
        wood: (F,) 0..1, cover that stays in winter (trunks and branches).
    """
    size = terrain.elevation.shape[0]
    per_class = np.array([_CANOPY[name] for name in CLASSES])[classes]  # (F, 3)
    rain = np.convolve(rng.gamma(0.25, 2.0, 425), np.exp(-np.arange(25) / 7), mode="full")[60:425]
    moisture = rain / rain.mean() - 1  # (365,) follows rain and dries within a week
    values = np.empty((len(days), 2, size, size), dtype=np.float32)
    toward = (terrain.slope_east * 4.0).clip(-3, 3)  # dB; the sensor looks east
    for l, day in enumerate(days):
        cover = np.maximum(canopy.green[:, l] + 0.6 * canopy.ripe[:, l] + canopy.flower[:, l], wood)
        shower = smooth_noise(rng, size, 50)
        wet = 1.6 * np.tanh(moisture[day - 1]) + 1.4 * shower + terrain.wetness
        calibration = rng.normal(0, 0.25)
        for p, (soil, drop) in enumerate(((-12.0, 0.0), (-20.0, 0.4))):
            through = np.exp(-per_class[:, 2] * cover)
            plant = 10 ** ((per_class[:, p] + structure) / 10) * (1 - through)
            ground = 10 ** ((soil + (1 - drop) * roughness) / 10) * through
            plant, ground = fields.mixing @ plant, fields.mixing @ ground
            power = plant.reshape(size, size) + ground.reshape(size, size) * 10 ** (wet / 10)
            values[l, p] = 10 * np.log10(power * _speckle(rng, size, looks)) + toward + calibration
    return values


def _speckle(rng: np.random.Generator, size: int, looks: float) -> np.ndarray:
    """(H, W) unit-mean factor; neighbours are correlated, as pixels finer than the radar's resolution are."""
    single = rng.gamma(looks, 1 / looks, (size, size))
    coarse = ndimage.gaussian_filter(single, 0.8)
    factor: np.ndarray = 1 + (coarse - 1) * single.std() / coarse.std()
    return factor.clip(0.02)


def aerial_image(
    rng: np.random.Generator,
    colour: np.ndarray,
    classes: np.ndarray,
    wood: np.ndarray,
    fields: Fields,
    terrain: Terrain,
    metres: float,
) -> np.ndarray:
    """(4, H*k, W*k) uint8: near infrared, green, blue, red (the order of the TreeSatAI aerial images).

    Args:
        colour: (F, 4) reflectance of the parcels on the day of the flight, in that order.
        metres: size of a fine pixel.
    """
    fine = fields.parcel.shape[0]
    factor = fine // terrain.elevation.shape[0]
    texture, leaf = _texture(rng, classes, wood, fields, metres)
    light = (1 + terrain.slope_east + 0.6 * terrain.slope_south).clip(0.5, 1.5).repeat(factor, 0).repeat(factor, 1)
    strip = 1 + 0.06 * np.sin(np.arange(fine) * metres / 350 + rng.uniform(0, 6))  # flight lines
    light = light * strip[None] * (1 + texture)
    image = np.empty((4, fine, fine), dtype=np.uint8)
    for band, gain in enumerate((420, 1100, 1500, 1150)):
        vegetation = 0.5 * leaf if band == 0 else -0.35 * leaf
        value = colour[fields.parcel, band] * light * (1 + vegetation) * (gain * rng.normal(1, 0.05))
        value += rng.standard_normal((fine, fine), dtype=np.float32) * 3
        image[band] = (value + rng.normal(8, 3)).clip(0, 255)
    return image


def _texture(
    rng: np.random.Generator, classes: np.ndarray, wood: np.ndarray, fields: Fields, metres: float
) -> tuple[np.ndarray, np.ndarray]:
    """Brightness texture and leaf contrast, (H*k, W*k) float32 each, about 0: tramlines, rows, mowing swaths, crowns.

    Row spacings are stretched to what the pixel can show.
    """
    fine = fields.parcel.shape[0]
    count = len(classes)
    angle = rng.uniform(0, np.pi, count).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, count).astype(np.float32)
    jitter = rng.uniform(0.85, 1.15, count).astype(np.float32)
    contrast = np.exp(rng.normal(0, 0.4, count)).astype(np.float32)
    grain = rng.standard_normal((fine, fine), dtype=np.float32)
    soft = ndimage.gaussian_filter(grain, 6 / metres)
    soft /= soft.std()
    texture, leaf = 0.05 * grain, np.zeros_like(grain)
    crowns = {}
    for name, metre in (("small", 1.6), ("large", 2.8)):
        sharp = ndimage.gaussian_filter(grain, metre / metres) - ndimage.gaussian_filter(grain, 2 * metre / metres)
        crowns[name] = sharp / sharp.std()
    kind = classes[fields.parcel]
    for k, name in enumerate(CLASSES):
        rows, columns = np.nonzero(kind == k)
        parcel = fields.parcel[rows, columns]
        along = 2 * np.pi * metres * (columns * np.cos(angle[parcel]) + rows * np.sin(angle[parcel]))
        across = 2 * np.pi * metres * (rows * np.cos(angle[parcel]) - columns * np.sin(angle[parcel]))
        step, start = jitter[parcel], phase[parcel]
        blotch = soft[rows, columns]
        if name in ("wheat", "barley", "rapeseed"):
            lines = np.cos(along / (18 * step) + start) > 0.93
            change, green = -0.22 * lines + 0.04 * blotch, -0.25 * lines
        elif name in ("maize", "beet"):
            width, depth = (4.2, 0.16) if name == "maize" else (3.0, 0.10)
            ridge = np.cos(along / (width * step) + start)
            change, green = depth * ridge + 0.07 * blotch, 0.8 * depth * ridge
        elif name == "meadow":
            change, green = 0.07 * np.cos(along / (9 * step) + start) + 0.08 * blotch, 0.06 * blotch
        elif name == "orchard":
            crown = np.cos(along / (6.5 * step) + start) * np.cos(across / (5.5 * step) + start)
            change, green = -0.25 * crown + 0.05 * blotch, 0.35 * crown
        else:
            old = wood[parcel]
            crown = old * crowns["large"][rows, columns] + (1 - old) * crowns["small"][rows, columns]
            change, green = 0.24 * crown, 0.12 * crown
        texture[rows, columns] += change * contrast[parcel]
        leaf[rows, columns] += green * contrast[parcel]
    return texture, leaf
