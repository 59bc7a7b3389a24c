"""A small cube with a season, clouds and three sensors, and models small enough for tests."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.context import SensorConfig
from fusion.data import Geo, Modality
from fusion.data.cubes import Cube, SensorCube, observed_statistics

WINDOW = 5
S2 = Modality("s2", "series", ("B04", "B08", "B11"), 10.0, WINDOW, "reflectance x 10000")
S1 = Modality("s1", "series", ("VV", "VH"), 10.0, WINDOW, "dB")
LANDSAT = Modality("landsat", "series", ("red", "nir"), 10.0, WINDOW, "reflectance x 10000")


def make_cube(size: tuple[int, int] = (12, 14), seed: int = 0, name: str = "plain", site: str = "") -> Cube:
    """Two crops with different seasons in vertical halves; a third of the optical pixels are clouded."""
    rng = np.random.default_rng(seed)
    height, width = size
    crop = (np.arange(width) >= width // 2)[None, :].repeat(height, 0)  # (H, W)

    def green(days: np.ndarray) -> np.ndarray:
        peak = np.where(crop, 120, 200) + rng.normal(0, 4, crop.shape)
        return np.exp(-(((days[:, None, None] - peak) / 45) ** 2))  # (T, H, W)

    optical_days = np.sort(rng.choice(np.arange(10, 300), 24, replace=False))
    radar_days = np.arange(12, 300, 12)
    landsat_days = np.arange(8, 300, 16)
    g = green(optical_days)
    optical = np.stack([1500 - 1000 * g, 1500 + 2500 * g, 2500 - 800 * g], axis=1)  # (T, 3, H, W)
    optical += rng.normal(0, 60, optical.shape)
    clear = rng.random((len(optical_days), height, width)) > 0.3
    clear[:, height // 2, width // 2] |= True
    g = green(radar_days)
    radar = np.stack([-14 + 3 * g, -21 + 5 * g], axis=1) + rng.normal(0, 0.7, (len(radar_days), 2, height, width))
    g = green(landsat_days)
    landsat = np.stack([1500 - 1000 * g, 1500 + 2500 * g], axis=1)
    sensors = {
        "s2": SensorCube(S2, optical_days + 18_000, optical.astype(np.float32), clear),
        "s1": SensorCube(S1, radar_days + 18_000, radar.astype(np.float32)),
        "landsat": SensorCube(LANDSAT, landsat_days + 18_000, landsat.astype(np.float32)),
    }
    geo = Geo((10.0, 0.0, 500_000.0, 0.0, -10.0, 5_600_000.0), "EPSG:32631")
    return Cube(name, sensors, geo, site or name)


def small(modality: Modality, cube: Cube, **settings: object) -> SensorConfig:
    fitted = observed_statistics([cube], modality)
    given = {"frames": 5, "bottleneck": 4, "reduced": 3, "widths": (8, 8, 8, 4), "depth": 1, "heads": 2}
    return SensorConfig(fitted, **given | {"dropout": 0.0} | settings)


@pytest.fixture(scope="session")
def cube() -> Cube:
    return make_cube()
