"""What grows on the parcels of the synthetic landscape, and how it looks through the year.

A parcel is a mixture, changing daily, of bare soil, green canopy, ripe (dry) canopy and flowers. Classes overlap
on any single day: wheat and barley differ by when they ripen, maize and beet by when they are harvested, orchard and
forest by texture. Timing, vigour and soil vary from parcel to parcel, timing also from year to year.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["BANDS", "CLASSES", "FLOWER", "GREEN", "RIPE", "SOIL", "Canopy", "grow", "reflectance"]

CLASSES = ("wheat", "barley", "rapeseed", "maize", "beet", "meadow", "orchard", "forest")
BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")

# Endmembers, reflectance in the order of BANDS; typical shapes, not measurements.
SOIL = np.array([0.060, 0.085, 0.115, 0.140, 0.160, 0.175, 0.195, 0.215, 0.300, 0.255])
RIPE = np.array([0.065, 0.105, 0.140, 0.185, 0.220, 0.245, 0.275, 0.295, 0.350, 0.250])
FLOWER = np.array([0.050, 0.150, 0.120, 0.200, 0.340, 0.400, 0.450, 0.470, 0.240, 0.120])
_CROP = np.array([0.025, 0.055, 0.030, 0.090, 0.300, 0.370, 0.410, 0.430, 0.200, 0.090])
_TREE = np.array([0.020, 0.042, 0.022, 0.065, 0.220, 0.270, 0.300, 0.320, 0.150, 0.065])
GREEN = np.stack(
    [
        _CROP,
        _CROP * [1, 1, 1, 1, 1, 1, 1.02, 1.02, 1.02, 1.02],
        _CROP * [1, 1.1, 1, 1.1, 1, 1, 1.03, 1.03, 1, 1],
        _CROP * [1, 0.95, 1, 0.95, 0.95, 0.95, 0.97, 0.97, 1.05, 1.1],
        _CROP * [1, 1.1, 1, 1.1, 1.08, 1.08, 1.1, 1.1, 1.0, 0.95],
        _CROP * [1.1, 1.05, 1.3, 1.1, 0.92, 0.92, 0.9, 0.9, 1.1, 1.2],
        _TREE * [1.1, 1.15, 1.2, 1.15, 1.08, 1.08, 1.08, 1.08, 1.1, 1.1],
        _TREE,
    ]
)  # (classes, bands)
CONIFER = np.array([0.018, 0.030, 0.018, 0.045, 0.130, 0.160, 0.180, 0.190, 0.090, 0.040])

# Day of year: green-up, ripening or leaf fall; cover in winter and at the peak; days of green-up and decline.
_TIMING = {
    "wheat": (88, 188, 0.22, 0.92, 11, 5),
    "barley": (80, 170, 0.25, 0.90, 11, 5),
    "rapeseed": (76, 182, 0.35, 0.93, 12, 6),
    "maize": (163, 272, 0.03, 0.92, 10, 6),
    "beet": (157, 297, 0.03, 0.92, 10, 5),
    "meadow": (85, 310, 0.50, 0.85, 14, 14),
    "orchard": (108, 306, 0.30, 0.84, 7, 9),
    "forest": (114, 298, 0.20, 0.92, 7, 9),
}
_RIPENS = {"wheat": 20, "barley": 18, "rapeseed": 14, "maize": 10}  # days the crop stands dry before harvest


@dataclass(frozen=True)
class Canopy:
    """The state of F parcels on L days, all (F, L) float32 shares of the ground; the rest is soil."""

    green: np.ndarray
    ripe: np.ndarray
    flower: np.ndarray


def _rise(day: np.ndarray, when: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    rise: np.ndarray = 1 / (1 + np.exp(-np.clip((day - when) / width, -30, 30)))
    return rise


def grow(
    classes: np.ndarray,
    days: np.ndarray,
    *,
    vigour: np.ndarray,
    delay: np.ndarray,
    conifer: np.ndarray,
    events: np.ndarray,
) -> Canopy:
    """Cover of every parcel on every day of the year.

    Args:
        classes: (F,) index into CLASSES.
        days: (L,) day of the year.
        vigour: (F,) about 1, scales the peak.
        delay: (F,) days by which the season is late.
        conifer: (F,) share of evergreens (forest).
        events: (F, 3) uniform in 0..1: when a meadow is cut.
    """
    timing = np.array([_TIMING[name] for name in CLASSES])[classes].T[:, :, None]  # (6, F, 1)
    up, down, low, high, rising, falling = timing
    day, late = days[None, :].astype(np.float64), delay[:, None]
    high = np.clip(high * vigour[:, None], low, 0.97)
    green = low + (high - low) * (_rise(day, up + late, rising) - _rise(day, down + late, falling))
    is_class = {name: (classes == k)[:, None] for k, name in enumerate(CLASSES)}

    winter_sown = is_class["wheat"] | is_class["barley"] | is_class["rapeseed"]
    after_harvest = winter_sown & (day > down + late + 25)
    regrowth = low * _rise(day, 290 + late, 8)  # next year's crop comes up in autumn
    green = np.where(after_harvest, regrowth + 0.06, green)

    meadow = np.ones_like(green)
    for first, event in zip((132, 182, 236), events.T, strict=True):
        cut = first + 22 * (event[:, None] - 0.5) + late
        meadow -= 0.55 * (day >= cut) * np.exp(-np.maximum(day - cut, 0) / 16)
    green = np.where(is_class["meadow"], green * np.clip(meadow, 0.3, 1), green)
    green = np.where(is_class["forest"], green + conifer[:, None] * (0.85 * high - green).clip(min=0), green)

    standing = np.array([_RIPENS.get(name, 0) for name in CLASSES])[classes][:, None]
    ripe = np.where(standing > 0, 0.8 * (_rise(day, down + late, 4) - _rise(day, down + late + standing, 1.5)), 0)
    ripe = np.where(is_class["meadow"], 0.12, ripe)
    ripe = np.where(is_class["forest"] | is_class["orchard"], 0.25 * (1 - green / high), ripe)  # branches, litter
    flower = np.where(is_class["rapeseed"], 0.6 * np.exp(-(((day - 122 - late) / 9) ** 2)), 0)
    flower = np.where(is_class["orchard"], 0.12 * np.exp(-(((day - 112 - late) / 6) ** 2)), flower)
    total = np.maximum(green + ripe + flower, 1)
    return Canopy(*((part / total).astype(np.float32) for part in (green.clip(min=0), ripe.clip(min=0), flower)))


def reflectance(
    canopy: Canopy, classes: np.ndarray, *, soil: np.ndarray, leaves: np.ndarray, conifer: np.ndarray
) -> np.ndarray:
    """(F, L, bands) float32 surface reflectance.

    Args:
        soil, leaves: (F, 2) brightness in the visible and in the infrared, about 1.
        conifer: (F,) share of evergreens (forest).
    """
    bright, leafy = (np.repeat(scale, (4, 6), axis=1) for scale in (soil, leaves))  # (F, bands)
    share = np.where(classes == CLASSES.index("forest"), conifer, 0)[:, None]
    leaf = (GREEN[classes] * (1 - share) + CONIFER * share) * leafy
    bare = 1 - canopy.green - canopy.ripe - canopy.flower
    mixed: np.ndarray = (
        bare[..., None] * (SOIL * bright)[:, None]
        + canopy.green[..., None] * leaf[:, None]
        + canopy.ripe[..., None] * RIPE
        + canopy.flower[..., None] * FLOWER
    )
    return np.asarray(mixed, dtype=np.float32)
