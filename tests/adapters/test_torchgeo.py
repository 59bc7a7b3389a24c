"""Samples of torchgeo as tiles: series with masks, queries of place in the forms of several versions, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.adapters import TorchgeoTiles
from fusion.data import collate
from fusion.evaluation import extract

from ..arrays.ground import AERIAL, CLASSES, GRID, S2, encoder
from .stand_ins import NORTH, WEST, Crops, Scene, query

DATES = ["2021-03-05", "2021-05-06", "2021-08-07"]


def crops(**options) -> TorchgeoTiles:
    data = options.pop("data", Crops())
    named = {"bands": {"image": data.bands}, "dates": DATES} | options
    return TorchgeoTiles(data, {"image": S2}, GRID, task="multiclass", classes=CLASSES, **named)


def test_a_series_keeps_its_bands_by_name_its_dates_and_the_middle_of_its_mask():
    data, tiles = Crops(), crops()
    tile = tiles[2]
    np.testing.assert_array_equal(tile.values["s2"], data.images[2][:, [0, 1, 2, 4], 1:9, 2:10])
    assert tile.days["s2"].tolist() == [63, 125, 218]
    assert tile.origin == np.datetime64("2021-01-01")
    np.testing.assert_array_equal(tile.label, data.masks[2][1:9, 2:10])
    assert tiles.dense
    assert tiles.label_shape == (8, 8)
    np.testing.assert_array_equal(tiles.labels()[2], tile.label)


def test_a_model_takes_them():
    tiles = crops()
    found = extract(encoder(S2), tiles, level="patch")
    assert found.x.shape == (6 * 16, 16)
    batch = collate([tiles[0], tiles[1]])
    assert batch.values["s2"].shape == (2, 3, 4, 8, 8)
    assert batch.dates("s2")[1].astype(str).tolist() == DATES


@pytest.mark.parametrize("form", ["0.8", "0.10"])
def test_the_place_of_a_query_is_that_of_the_tile(form):
    scene = Scene(form)
    tiles = TorchgeoTiles(scene, {"image": AERIAL}, GRID, queries=[query(0, 0), query(10, 20, 100.0)])
    first, second = tiles[0], tiles[1]
    np.testing.assert_array_equal(first.values["aerial"], scene.values[:, :32, :32])
    assert first.geo.crs == "EPSG:32631"
    assert first.geo.transform == (2.5, 0, WEST, 0, -2.5, NORTH)
    # A larger sample loses its border: 40 pixels of 100 m, of which the middle 32 are the tile.
    np.testing.assert_array_equal(second.values["aerial"], scene.values[:, 14:46, 24:56])
    assert second.geo.transform == (2.5, 0, WEST + 24 * 2.5, 0, -2.5, NORTH - 14 * 2.5)


@pytest.mark.parametrize("form", ["0.8", "0.10"])
def test_a_query_of_a_day_is_a_series_of_one_date(form):
    season = type(AERIAL)("aerial", "series", AERIAL.bands, 2.5, 8, "8 bit")
    tile = TorchgeoTiles(Scene(form), {"image": season}, GRID, queries=[query(0, 0)])[0]
    assert tile.values["aerial"].shape == (1, 2, 32, 32)
    assert tile.days["aerial"].tolist() == [153]
    assert tile.origin == np.datetime64("2021-01-01")


def test_several_images_seconds_and_labels_of_tiles():
    rng = np.random.default_rng(3)
    series = rng.uniform(200, 3000, (2, 4, 8, 8)).astype(np.float32)
    series[0, :, :2] = -9999
    seconds = np.array(["2020-02-01", "2020-04-01"], "datetime64[s]").astype(np.int64)
    sample = {
        "image_s2": torch.from_numpy(series.reshape(8, 8, 8)),  # dates one after the other, as SSL4EO has them
        "image_aerial": torch.from_numpy(rng.uniform(0, 255, (2, 32, 32))),
        "t": torch.from_numpy(seconds),
        "label": torch.tensor([1, 0, 1]),
    }
    keys = {"image_s2": S2, "image_aerial": AERIAL}
    tiles = TorchgeoTiles([sample], keys, GRID, task="multilabel", classes=CLASSES, nodata=-9999)
    tile = tiles[0]
    assert tile.days["s2"].tolist() == [31, 91]
    assert set(tile.values) == {"s2", "aerial"}
    np.testing.assert_allclose(tile.values["s2"][0, :, 0, 0], series[0, :, 2:].mean((1, 2)), rtol=1e-5)
    assert tiles.labels().tolist() == [[1.0, 0.0, 1.0]]


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="no band B08 of s2 among those of 'image', red, green, blue"):
        crops(bands={"image": ["red", "green", "blue"]})
    with pytest.raises(ValueError, match=r"sample 0 has 3 dates of s2, and 2 are known; give dates"):
        crops(dates=DATES[:2])[0]
    with pytest.raises(ValueError, match=r"sample 0 has 3 dates of s2, and 0 are known"):
        crops(dates=None)[0]
    with pytest.raises(ValueError, match=r"'image' \(3, 5, 10, 12\); a series of 4 bands is \(T, C, H, W\)"):
        crops(bands=None)[0]
    with pytest.raises(ValueError, match="has 10 x 12 pixels, a tile 12 x 12"):
        TorchgeoTiles(Crops(), {"image": S2}, (6, 6), bands={"image": Crops.bands}, dates=DATES)[0]
    with pytest.raises(ValueError, match="has image, mask, and no 'image_s2'"):
        TorchgeoTiles(Crops(), {"image_s2": S2}, GRID, dates=DATES)[0]
