"""The air of the synthetic landscape: season by latitude, lapse rate, trees that damp it, snow that sharpens it."""

from __future__ import annotations

import numpy as np

__all__ = ["LATITUDE", "air_temperature"]

LATITUDE = 48.75  # of the landscape's own coordinates, degrees north
_THAW = 1.5  # K over which a snow cover comes and goes around 0 degC
_MASKED = 0.8  # of the snow's effect, under a closed canopy


def air_temperature(
    elevation: np.ndarray,
    wetness: np.ndarray,
    trees: np.ndarray,
    weather: np.ndarray,
    *,
    latitude: float = LATITUDE,
    snow: float = 0.0,
) -> np.ndarray:
    """(365, h, w) float32 daily mean air temperature in degC near the ground.

    Poleward the year is colder and its wave larger; -6.5 K/km; wet hollows are cooler; trees damp the wave by up to
    10 % and the weather by up to 25 %. With ``snow``, open ground cools further while the season (without the weather
    of the day) is below 0 degC, because snow reflects the sun and radiates at night; trees stand above it and mask four
    fifths of that (the snow-albedo feedback). So it works where latitude, height and open land meet, and not linearly.

    Args:
        elevation, wetness, trees: (h, w) in m, as an index about 0 +- 1, and as a share of the ground.
        weather: (365,) departure of the days from the season in K.
        latitude: degrees north.
        snow: K by which a full snow cover cools open ground; 0 leaves it out.
    """
    season = -np.cos(2 * np.pi * (np.arange(365) - 17) / 365)[:, None, None]
    mean, swing = 27.0 - 0.35 * latitude, 0.19 * latitude
    constant = mean - 0.0065 * elevation - 0.1 * wetness
    seasonal = swing * (1 - 0.10 * trees)
    daily = 1 - 0.25 * trees
    field = constant + season * seasonal + weather[:, None, None] * daily
    if snow:
        cover = 1 / (1 + np.exp((constant + season * swing) / _THAW))
        field = field - snow * cover * (1 - _MASKED * trees)
    return field.astype(np.float32)
