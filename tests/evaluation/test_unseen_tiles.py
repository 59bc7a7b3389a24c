"""Tiles of which a modality, or anything, was never observed are scored, aloud."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality, fit_statistics
from fusion.evaluation.finetune import score_module
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning
from fusion.training.loading import evaluation_loader, unseen


def tiles(dense: bool, missing: int = 8) -> ArrayTiles:
    """Twelve tiles, the first of which lack the series."""
    rng = np.random.default_rng(0)
    s2 = rng.normal(1000, 100, (12, 3, 2, 4, 4)).astype(np.float32)
    s2[:missing] = np.nan
    modalities = [
        Modality("s2", "series", ("B04", "B08"), 10.0, 2, "reflectance x 10000"),
        Modality("aerial", "image", ("R",), 10.0, 2),
    ]
    labels = torch.from_numpy(rng.integers(0, 2, (12, 4, 4) if dense else 12))
    return ArrayTiles(
        modalities,
        {"s2": s2, "aerial": rng.normal(0, 1, (12, 1, 4, 4)).astype(np.float32)},
        days={"s2": np.tile([10, 50, 90], (12, 1))},
        grid=(2, 2),
        task="multiclass",
        classes=("a", "b"),
        labels=labels,
    )


@pytest.mark.parametrize("dense", [False, True])
def test_tiles_without_the_only_modality_are_scored_and_counted(dense):
    data = tiles(dense)
    model = OmniSat(OmniSatConfig.preset("tiny", fit_statistics(data), data.grid, dim=16, heads=2, series_heads=2))
    shape = data.label_shape if dense else ()
    module = Finetuning(model, "multiclass", data.classes, label_shape=shape).eval()
    result = score_module(module, data.with_modalities(["s2"]), 4)
    assert result.confusion.sum() == (192 if dense else 12)
    assert result.notes == ("8 of 12 test tiles, e.g. 0, have no observation of s2: what is said of them says nothing",)
    assert score_module(module, data, 4).notes == ()


def test_a_batch_of_nothing_but_unseen_tiles_has_nothing_valid():
    data = tiles(False).with_modalities(["s2"])
    batches = list(evaluation_loader(data, 4))
    assert [len(unseen(batch)) for batch in batches] == [4, 4, 0]
    assert batches[0].values["s2"].shape == (4, 1, 2, 4, 4)
    assert not batches[0].valid["s2"].any()
    assert batches[0].labels.tolist() == data.labels()[:4].tolist()
