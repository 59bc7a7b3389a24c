"""A scene whose colour tells the class and the height of a pixel, as a file with label maps, and its description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CODES = {"water": 10, "meadow": 20, "forest": 30}
SIDE = 48  # pixels of 10 m


def write_scene(folder: Path) -> dict[str, Any]:
    """Fields of 4 x 4 pixels, a tenth of which are not mapped."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, (SIDE // 4, SIDE // 4)).repeat(4, 0).repeat(4, 1)
    crop = np.array(list(CODES.values()))[truth]
    crop[rng.random(truth.shape) < 0.1] = 0  # not mapped
    image = np.stack([truth == k for k in range(3)]) * 100 + rng.normal(0, 5, (3, SIDE, SIDE))
    height = (10 * truth + 5 + rng.normal(0, 1, truth.shape)).astype(np.float32)
    np.savez(folder / "north.npz", image=image.astype(np.float32), crop=crop, height=height)
    return {
        "files": "{scene}.npz",
        "tile": 80,
        "patch": 20,
        "modalities": {
            "aerial": {"variable": "image", "axes": ["band", "y", "x"], "bands": ["R", "G", "B"], "resolution": 10}
        },
        "labels": {"variable": "crop", "resolution": 10, "reduction": "none", "nodata": 0, "classes": CODES},
        "georeference": {"epsg": 32632, "bounds": [500_000, 5_399_520, 500_480, 5_400_000]},
        "splits": {"train": {"columns": [0, 0.5]}, "val": {"columns": [0.5, 0.67]}, "test": {"columns": [0.66, 1]}},
    }
