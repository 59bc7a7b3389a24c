"""The random forest on raw values: what it sees of a pixel, and that it learns from the same labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality
from fusion.evaluation.raw_forest import pixel_statistics, raw_forest

S2 = Modality("s2", "series", ("B04", "B08"), 20.0, 2, "reflectance x 10000")
AERIAL = Modality("aerial", "image", ("R",), 10.0, 4)


def tiles(count: int, task: str = "multiclass", seed: int = 0) -> ArrayTiles:
    """Tiles of 2 x 2 patches of 40 m: labels in pixels of 10 m, told by the season of their pixel of 20 m."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (count, 4, 4))  # pixels of 20 m
    season = np.where(np.arange(8)[:, None] < 4, [1000.0, 1000.0], [1000.0, 3000.0])  # (L, class)
    values = season[:, truth].transpose(1, 0, 2, 3)[:, :, None] + rng.normal(0, 20, (count, 8, 2, 4, 4))
    image = rng.normal(0, 1, (count, 1, 8, 8))
    labels = truth.repeat(2, 1).repeat(2, 2)
    quantity = torch.from_numpy(10.0 * labels + 5).float()
    maps = torch.from_numpy(np.where(rng.random(labels.shape) < 0.2, 9, labels))
    quantity[rng.random(labels.shape) < 0.2] = float("nan")
    return ArrayTiles(
        [S2, AERIAL],
        {"s2": values.astype(np.float32), "aerial": image.astype(np.float32)},
        days={"s2": np.tile(np.arange(8) * 45, (count, 1))},
        grid=(2, 2),
        task=task,
        classes=("maize", "wheat") if task == "multiclass" else ("biomass",),
        labels=maps if task == "multiclass" else quantity,
        ignore_index=9,
    )


def test_a_pixel_has_the_moments_and_seasons_of_the_nearest_pixel_of_each_band():
    data = tiles(1)
    tile = data[0]
    found = pixel_statistics(tile, data)  # (8, 8, F)
    assert found.shape == (8, 8, 2 * 6 + 1)
    values = tile.values["s2"].numpy()[:, :, 2, 1]  # (8, 2), the pixel of 20 m that holds rows 4, 5 and columns 2, 3
    seasons = [values[k : k + 2].mean(0) for k in (0, 3, 5)]
    first = values[:3].mean(0)  # days 0, 45, 90 lie in the first quarter
    np.testing.assert_allclose(found[5, 3, :4], [*values.mean(0), *values.std(0)], rtol=1e-5)
    np.testing.assert_allclose(found[5, 3, 4:6], first, rtol=1e-5)
    np.testing.assert_allclose(found[5, 3, 6:8], seasons[1], rtol=1e-5)
    assert found[5, 3, 12] == tile.values["aerial"][0, 5, 3]


def test_a_modality_that_is_missing_is_nan_and_the_forest_still_learns():
    data = tiles(1)
    tile = data[0]
    del tile.values["s2"]
    assert np.isnan(pixel_statistics(tile, data)[..., :12]).all()


def test_maps_are_learned_from_labelled_pixels_and_scored_on_all_of_them():
    train, test = tiles(6), tiles(4, seed=1)
    result = raw_forest(train, test)
    assert result.method == "forest"
    assert result.scores["miou"] > 0.99
    assert result.confusion.sum() == (test.labels() != 9).sum()
    assert result.sums.shape == (4, 2, 3)
    assert result.labelled == 6


def test_a_quantity_of_pixels_is_learned_too():
    result = raw_forest(tiles(6, "regression"), tiles(4, "regression", seed=1))
    assert result.scores["r2"] > 0.95


def test_one_class_alone_is_refused():
    data = tiles(2)
    data._labels = torch.where(data._labels == 9, 9, 1)
    with pytest.raises(ValueError, match="labelled pixels are of class wheat"):
        raw_forest(data, data)
