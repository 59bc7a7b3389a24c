"""The random forest on raw values: what it sees of a pixel, and that it learns from the same labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality
from fusion.evaluation import Row
from fusion.evaluation.raw_dates import Calendar, filled
from fusion.evaluation.raw_forest import pixel_statistics, raw_best, raw_forest
from fusion.workflow.comparison import against
from fusion.workflow.scores import intervals

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


def pixels(count: int, seed: int, only: str) -> ArrayTiles:
    """Single pixels of 12 dates in blocks of 10: two classes, or a quantity, that only one date or all dates tell."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, count)
    values = rng.normal(0, 1, (count, 12, 2))
    if only == "a date":  # high or low on the fifth date, which the mean of its season hides behind the others
        values[:, 4, 0] = np.where(kinds, 1.0, rng.choice([-0.5, 2.5], count)) + 0.1 * rng.normal(size=count)
    quantity = values.mean(axis=(1, 2))[:, None] * 100
    classes = only == "a date"
    return ArrayTiles(
        [Modality("s2", "series", ("B04", "B08"), 10.0, 1)],
        {"s2": values.astype(np.float32)},
        days={"s2": np.arange(12) * 30},
        task="multiclass" if classes else "regression",
        classes=("maize", "wheat") if classes else ("biomass",),
        labels=torch.from_numpy(kinds) if classes else torch.from_numpy(quantity).float(),
        blocks=np.arange(count) // 10,
    )


def test_the_strongest_control_is_found_and_named():
    train, test = (pixels(300, seed, "a date") for seed in (0, 1))
    result = raw_best(train, test)
    assert result.setting["control"] in ("HistGradientBoosting on 12 dates", "random forest on 12 dates")
    assert result.notes[0].startswith(f"strongest control: {result.setting['control']} (on held-out blocks: linear")
    assert result.scores["macro_f1"] > 0.85 > raw_forest(train, test).scores["macro_f1"] + 0.1
    linear = raw_best(pixels(200, 0, "all"), pixels(100, 1, "all"))
    assert linear.setting["control"].startswith("ridge regression on ")
    assert linear.scores["r2"] > 0.95
    assert linear.method == "best"


def test_the_strongest_control_of_maps_is_scored_on_every_labelled_pixel():
    train, test = tiles(6), tiles(4, seed=1)
    result = raw_best(train, test)
    assert result.scores["miou"] > 0.99
    assert result.confusion.sum() == (test.labels() != 9).sum()
    assert result.setting["control"].endswith((" on 4 seasons", " on 8 dates"))


def test_dates_are_brought_to_a_calendar_and_gaps_are_nan_or_interpolated():
    data = tiles(2)
    calendar = Calendar.of(data)
    assert calendar.days["s2"].tolist() == [45.0 * k for k in range(8)]
    tile = data[0]
    tile.valid["s2"] = torch.tensor([True, True, False, True, True, True, True, False])
    values = calendar.values(tile, "s2")
    assert np.isnan(values[[2, 7]]).all()
    np.testing.assert_allclose(values[3], tile.values["s2"][3], rtol=1e-6)
    whole = filled(values, calendar.days["s2"])
    np.testing.assert_allclose(whole[2], (values[1] + values[3]) / 2, rtol=1e-6)
    np.testing.assert_allclose(whole[7], values[6])


def test_many_dates_are_brought_to_months():
    values = np.arange(80, dtype=np.float32)[None, :, None].repeat(2, axis=2)
    s2 = Modality("s2", "series", ("B04", "B08"), 10.0, 1)
    data = ArrayTiles([s2], {"s2": values}, days={"s2": np.arange(80) * 5})
    calendar = Calendar.of(data)
    assert calendar.dates == 13
    assert calendar.values(data[0], "s2")[0, 0, 0, 0] == 3.0  # days 0 to 30


def test_the_verdict_names_the_winner():
    train, test = (pixels(200, seed, "all") for seed in (0, 1))
    control = Row("raw", ("s2",), 1.0, 0, raw_best(train, test))
    ours = Row("pretrained", ("s2",), 1.0, 0, raw_forest(train, test))
    named = {"pretrained": [ours], "raw_best": [control]}
    told = against(named, intervals(named, test, 0), "raw_best", "the strongest control on raw values")
    winner, r2 = control.result.setting["control"], ours.result.scores["r2"]
    assert told[0].startswith(
        f"pretrained is NOT better than the strongest control on raw values, {winner}: R² {r2:.3f}"
    )
