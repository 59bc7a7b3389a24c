"""A field as two sensors saw it, and options of a context-aware model that trains on it in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

SIDE, DATES = 24, 9

SIZES = [
    *("--model.window", "3", "--training.samples", "40", "--training.batch_size", "20"),
    *("--model.sensors", "{s2: {bottleneck: 5, frames: 5, reduced: 3, widths: [8, 8, 8, 8], mlp_dim: 8},"
      " s1: {frames: 5, reduced: 3, widths: [8, 8, 8, 8], mlp_dim: 8}}"),
    *("--model.fusion", "{embedding: 6, dim: 16, mlp_dim: 16}"),
]  # fmt: skip


def describe_field(folder: Path) -> Path:
    """Writes a Sentinel-1 and a Sentinel-2 series of one field, and the description, in which the radar comes first."""
    rng = np.random.default_rng(0)
    days = np.arange("2020-04-01", "2020-10-01", 20, dtype="datetime64[D]")[:DATES]
    season = 1000 + 800 * np.sin(np.arange(DATES) / 3)[:, None, None, None]
    s2 = (season + rng.normal(0, 50, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    s1 = (-12 + season / 800 + rng.normal(0, 0.5, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    np.savez(folder / "field.npz", s2=s2, s1=s1, dates=days.astype(str))
    series = {"resolution": 10, "dates": "dates"}
    optical = {"variable": "s2", "bands": ["B04", "B08"], "unit": "reflectance x 10000", **series}
    radar = {"variable": "s1", "bands": ["VV", "VH"], "unit": "dB", **series}
    described = {
        "files": "{scene}.npz",
        "tile": 80,
        "patch": 10,
        "modalities": {"s1": radar, "s2": optical},
        "georeference": {"epsg": 32631, "bounds": [500_000, 5_599_760, 500_240, 5_600_000]},
    }
    (folder / "cubes.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return folder / "cubes.yaml"
