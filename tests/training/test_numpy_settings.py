"""Settings that are NumPy's text and numbers train, are saved and are taken up again like Python's own."""

from __future__ import annotations

import numpy as np
import torch
import yaml

from fusion.data import ArrayTiles, Modality, fit_statistics
from fusion.omnisat import OmniSat, OmniSatConfig, OmniSatPretraining
from fusion.training import Finetuning, fit, load_finetuned, load_model

CLASSES = np.array(["maize", "wheat"])


def tiles() -> ArrayTiles:
    rng = np.random.default_rng(0)
    s2 = Modality("s2", "series", np.array(["B04", "B08"]), np.float32(10), np.int64(1))
    relief = Modality("relief", "image", np.array(["elevation"]), np.int32(10), np.int8(1))
    return ArrayTiles(
        [s2, relief],
        {"s2": rng.random((12, 4, 2)), "relief": rng.random((12, 1))},
        days={"s2": [0, 30, 60, 90]},
        task="multiclass",
        classes=CLASSES,
        labels=[np.int64(k % 2) for k in range(12)],
    )


def config() -> OmniSatConfig:
    return OmniSatConfig.preset("tiny", fit_statistics(tiles()), (np.int64(1), np.int64(1)), dropout=np.float32(0))


def train(module, run, epochs):
    numbers = {"batch_size": np.int64(6), "seed": np.int64(1)}
    fit(module, tiles(), None, run, epochs=epochs, progress=False, memory="ignore", **numbers)


def test_pretraining_is_saved_and_taken_up_again(tmp_path):
    for epochs in (1, 2):
        train(OmniSatPretraining(config(), lr=np.float64(1e-3), mask_ratio=np.float32(0.5)), tmp_path, np.int64(epochs))
    known = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (known["settings"]["lr"], known["settings"]["mask_ratio"]) == (1e-3, 0.5)
    assert load_model(tmp_path).config == config()
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 3


def test_a_head_is_saved_and_taken_up_again(tmp_path):
    for epochs in (1, 2):
        torch.manual_seed(0)
        train(Finetuning(OmniSat(config()), "multiclass", CLASSES, lr=np.float32(1e-3)), tmp_path, epochs)
    assert load_finetuned(tmp_path).classes == ("maize", "wheat")
