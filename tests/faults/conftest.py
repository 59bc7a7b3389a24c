"""Small work for every system: data, and the commands that train on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..cli.small_context import describe_field
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

# Seconds of training, not of reading: the interruptions are to find it at work.
_TRAINING = {"batch_size": 8, "epochs": 6}


@pytest.fixture(scope="session")
def cubes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The description of a field as Sentinel-1 and Sentinel-2 saw it."""
    return describe_field(tmp_path_factory.mktemp("cubes"))


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
