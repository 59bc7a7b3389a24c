"""Small work for every system: data, and the commands that train on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from .commands import options, run

LANDSCAPE = {"size": 64, "block": 2, "fine": 4, "max_dates": 6}
_OMNISAT = {"dim": 16, "heads": 2, "series_heads": 2, "depth": 1}
_TOKENIZERS = {
    "terrain": {"kind": "bins", "bins": 16},
    "s1": {"kind": "bins", "step": 60, "length": 6, "bins": 16},
    "temperature": {"kind": "bins", "step": 20, "length": 18, "bins": 32},
}
_TOKENS = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32, "tokenizers": _TOKENIZERS}
_SENSOR = {"frames": 5, "reduced": 3, "widths": [8, 8, 8, 8], "mlp_dim": 8}
_CONTEXT = {
    "window": 3,
    "sensors": {"s2": {"bottleneck": 5, **_SENSOR}, "s1": _SENSOR},
    "fusion": {"embedding": 6, "dim": 16, "mlp_dim": 16},
}
SIDE, DATES = 24, 9

# Seconds of training, not of reading: the interruptions are to find it at work.
_TRAINING = {"batch_size": 8, "epochs": 6}


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description of a field as Sentinel-1 and Sentinel-2 saw it."""
    folder = tmp_path_factory.mktemp("cubes")
    rng = np.random.default_rng(0)
    days = np.arange("2020-04-01", "2020-10-01", 20, dtype="datetime64[D]")[:DATES]
    season = 1000 + 800 * np.sin(np.arange(DATES) / 3)[:, None, None, None]
    s2 = (season + rng.normal(0, 50, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    s1 = (-12 + season / 800 + rng.normal(0, 0.5, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    np.savez(folder / "field.npz", s2=s2, s1=s1, dates=days.astype(str))
    series = {"resolution": 10, "dates": "dates"}
    optical = {"variable": "s2", "bands": ["B04", "B08"], "unit": "reflectance x 10000", **series}
    radar = {"variable": "s1", "bands": ["VV", "VH"], "unit": "dB", **series}
    place = {"epsg": 32631, "bounds": [500_000, 5_599_760, 500_240, 5_600_000]}
    described = {"files": "{scene}.npz", "tile": 80, "patch": 10, "modalities": {"s1": radar, "s2": optical}}
    (folder / "cubes.yaml").write_text(yaml.safe_dump(described | {"georeference": place}, sort_keys=False))
    return folder / "cubes.yaml"


@pytest.fixture(scope="session")
def pretraining(cubes: Path) -> dict[str, list[str]]:
    """By system the words of a pretraining but for its folder."""
    common = {"data": "landscape", "training": _TRAINING}
    tokens = {key: value for key, value in LANDSCAPE.items() if key != "max_dates"}
    tokens |= {"modalities": ["terrain", "s1", "temperature"], "target": "biomass"}
    context = {"data": str(cubes), "model": _CONTEXT, "training": {"samples": 200, "batch_size": 20, "epochs": [2, 3]}}
    return {
        "omnisat": ["pretrain", *options({"preset": "omnisat-tiny", "reader": LANDSCAPE, "model": _OMNISAT} | common)],
        "token-fusion": ["pretrain", *options({"preset": "token-fusion", "reader": tokens, "model": _TOKENS} | common)],
        "context": ["pretrain", *options({"system": "context"} | context)],
    }


@pytest.fixture(scope="session")
def pretrained(pretraining: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By system the run folder of a pretraining that nobody stopped."""
    folder = tmp_path_factory.mktemp("pretrained")
    for system, words in pretraining.items():
        ended = run([*words, "--out", str(folder / system)], folder / f"{system}.log")
        assert ended.status == 0, ended
    return {system: folder / system for system in pretraining}
