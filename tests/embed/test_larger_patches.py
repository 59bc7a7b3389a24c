"""Embeddings of larger patches than the model's own: as vectors and as a raster."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality, collate, fit_statistics
from fusion.embed import embed_map, read_embeddings
from fusion.evaluation import extract
from fusion.omnisat import OmniSat, OmniSatConfig

from .conftest import Places, tile_at

GRID = (4, 6)
OPTICAL = Modality("optical", "image", ("red", "green"), 10.0, 2)


@pytest.fixture(scope="module")
def tiles() -> ArrayTiles:
    """Two tiles side by side, of 4 x 6 patches of 20 m, with a class each."""
    image = np.random.default_rng(0).normal(size=(2, 2, 8, 12)).astype(np.float32)
    places = [tile_at(0, 0), tile_at(0, 6)]
    return ArrayTiles(
        [OPTICAL], {"optical": image}, grid=GRID, places=places, task="multiclass", classes=("a", "b"),
        labels=np.array([0, 1]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tiles) -> OmniSat:
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(tiles), GRID, dim=16, mlp_dim=32, heads=2, series_heads=2)
    return OmniSat(config).eval()


@pytest.fixture(scope="module")
def coarse(tiles, model) -> np.ndarray:
    """(2, 2, 3, 16): what the model itself says of patches of 2 x 2."""
    with torch.inference_mode():
        return model(collate([tiles[0], tiles[1]]), patch_scale=2).patches.unflatten(1, (2, 3)).numpy()


def test_features_of_larger_patches_are_the_models_own(tiles, model, coarse):
    features = extract(model, tiles, level="patch", patch_scale=2)
    assert features.grid == (2, 3)
    np.testing.assert_allclose(features.maps(), coarse, rtol=1e-4, atol=1e-5)
    assert features.y.tolist() == [0] * 6 + [1] * 6
    pooled = extract(model, tiles, patch_scale=2).x
    np.testing.assert_allclose(pooled, coarse.mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert not np.allclose(pooled, extract(model, tiles).x, atol=1e-3)


def test_a_raster_of_larger_patches_has_larger_pixels_at_the_same_place(tiles, model, coarse, tmp_path):
    [written] = embed_map(model, tiles, tmp_path / "map.tif", patch_scale=2)
    found = read_embeddings(written.path)
    assert found.values.shape == (16, 2, 6)
    assert tuple(found.transform)[:6] == (40.0, 0.0, 500.0, 0.0, -40.0, 900.0)
    wanted = np.concatenate(list(coarse), axis=1)  # (2, 6, 16)
    np.testing.assert_allclose(found.values.transpose(1, 2, 0), wanted, rtol=1e-4, atol=1e-5)
    assert found.tags["FUSION_PATCH_SCALE"] == "2"
    assert written.patch == (40.0, 40.0)


def test_larger_patches_of_unplaced_tiles_are_arrays_of_fewer(tiles, model, tmp_path):
    unplaced = ArrayTiles([OPTICAL], {"optical": np.stack([tiles[0].values["optical"].numpy()])}, grid=GRID)
    [written] = embed_map(model, unplaced, tmp_path / "map.tif", patch_scale=2)
    assert read_embeddings(written.path).values.shape == (1, 16, 2, 3)


def test_scales_that_cannot_be_are_told_in_words(tiles, model, tmp_path):
    message = "patch_scale 3 does not divide a tile of 4 x 6 patches; 1, 2 do"
    with pytest.raises(ValueError, match=message):
        embed_map(model, tiles, tmp_path / "map.tif", patch_scale=3)
    with pytest.raises(ValueError, match=message):
        extract(model, tiles, patch_scale=3)
    with pytest.raises(ValueError, match="patch_scale 0 does not divide"):
        extract(model, tiles, patch_scale=0)
    with pytest.raises(ValueError, match="tokens before they are merged"):
        extract(model, tiles, pool="tokens", patch_scale=2)
    assert not list(tmp_path.iterdir())


def test_a_model_of_one_patch_size_is_told(model, tmp_path):
    class One(torch.nn.Module):
        def forward(self, batch):
            raise AssertionError("never reached")

    with pytest.raises(ValueError, match="One encodes patches of one size only"):
        embed_map(One(), Places([tile_at(0, 0)], grid=(2, 2)), tmp_path / "map.tif", patch_scale=2)
