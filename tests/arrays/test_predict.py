"""Predictions of xarray: classes with their names, probabilities, quantities with their ends, as maps have them."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  (registers .rio)
import torch
import xarray as xr

import fusion
from fusion.embed import predict_map
from fusion.training import load_finetuned
from fusion.training.conformal import ConformalInterval

from .ground import CLASSES, CRS, S2, as_folder, encoder, optical, saved, tuned


@pytest.fixture(scope="module")
def cube() -> xr.DataArray:
    """A tile of its south-eastern corner was never seen."""
    whole = optical(40, 48)
    hidden = (whole.y < whole.y[-9]) & (whole.x > whole.x[-9])
    return whole.where(~hidden)


@pytest.mark.parametrize("dense", [True, False], ids=["pixels", "tiles"])
def test_classes_are_those_of_the_map(cube, tmp_path, dense):
    shape = {"label_shape": (8, 8)} if dense else {}
    saved(tmp_path / "run", encoder(S2), tuned(encoder(S2), "multiclass", CLASSES, **shape))
    tiles = as_folder(cube, tmp_path / "data")
    tiles = tiles.covering(by="pixel") if dense else tiles
    (written,) = predict_map(load_finetuned(tmp_path / "run"), tiles, tmp_path / "map.tif", probabilities=True)
    model = fusion.load(tmp_path / "run")
    found = model.predict(cube)
    assert (model.task, model.classes) == ("multiclass", CLASSES)
    with rasterio.open(written.path) as file:
        np.testing.assert_array_equal(found["class"].values, file.read(1))
        assert found.rio.transform() == file.transform
        assert found.rio.crs == CRS
    with rasterio.open(written.probabilities) as file:
        shares = file.read().astype(float)
    known = found["class"].values != 255
    assert not known.all()
    np.testing.assert_allclose(found.probability.values[:, known] * 254, shares[:, known], atol=0.51)
    assert found["class"].dtype == np.uint8
    assert found["class"].attrs["flag_meanings"] == "water oak_&_beech maize"
    assert list(found.label.values) == list(CLASSES)
    if dense:  # on the very pixels of what was given
        xr.testing.assert_equal(found["class"].y.drop_vars("spatial_ref"), cube.y)


def test_labels_coarser_than_patches_lie_where_they_are(cube, tmp_path):
    """Of 40 m on patches of 20 m: tiles overlap by whole pixels of the labels."""
    saved(tmp_path, encoder(S2), tuned(encoder(S2), "multiclass", CLASSES, label_shape=(2, 2)))
    model = fusion.load(tmp_path)
    found = model.predict(cube[..., :8, :16]).probability
    west, centre, east = (model.predict(cube[..., :8, left : left + 8]).probability.values for left in (0, 4, 8))
    middle = [(west[..., 1] + centre[..., 0]) / 2, (centre[..., 1] + east[..., 0]) / 2]
    by_hand = np.stack([west[..., 0], *middle, east[..., 1]], axis=-1)
    np.testing.assert_allclose(found.values, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.diff(found.x), 40)


def test_several_classes_at_once(cube, tmp_path):
    saved(tmp_path, encoder(S2), tuned(encoder(S2), "multilabel", CLASSES))
    found = fusion.load(tmp_path).predict(cube)
    known = found.probability.notnull().values
    assert found["class"].dims == ("label", "y", "x")
    np.testing.assert_array_equal(found["class"].values[known], found.probability.values[known] > 0.5)
    assert (found["class"].values[~known] == 255).all()


def test_quantities_have_their_names_and_the_ends_of_their_intervals(cube, tmp_path):
    truth, said = torch.full((200,), 20.0).numpy(), 20 + torch.randn(200).numpy()
    interval = ConformalInterval.fit(said, truth, 0.9).to_dict()
    settings = {"label_shape": (8, 8), "target_mean": [20.0], "target_std": [5.0], "intervals": [interval]}
    module = tuned(encoder(S2), "regression", ("height",), **settings)
    saved(tmp_path / "run", encoder(S2), module)
    tiles = as_folder(cube, tmp_path / "data").covering(by="pixel")
    (written,) = predict_map(load_finetuned(tmp_path / "run"), tiles, tmp_path / "map.tif")
    found = fusion.load(tmp_path / "run").predict(cube)
    assert list(found) == ["height", "height_lower", "height_upper"]
    with rasterio.open(written.path) as file:
        for name, band in zip(found, file.read(), strict=True):
            np.testing.assert_allclose(found[name].values, band, rtol=1e-4)


def test_a_bare_encoder_predicts_nothing(cube, tmp_path):
    model = fusion.load(saved(tmp_path, encoder(S2)))
    with pytest.raises(ValueError, match="is an encoder without a head; fine-tune it"):
        model.predict(cube)
