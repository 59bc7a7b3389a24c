"""Models as backbones: vectors and maps, gradients, larger inputs, terratorch's registry."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import fusion
from fusion.adapters import Backbone, register_backbone
from fusion.data import TileBatch

from ..arrays.ground import AERIAL, S1, S2, encoder, saved
from .stand_ins import Registry

DATES = np.array(["2021-04-03", "2021-05-20", "2021-07-11"], dtype="datetime64[D]")
DAYS = torch.from_numpy((DATES - np.datetime64("2021-01-01")).astype(int))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"), encoder(S2, S1))


def series(rows: int = 8, columns: int = 8) -> torch.Tensor:
    return torch.rand(2, 3, 4, rows, columns, generator=torch.Generator().manual_seed(0)) * 3000


def test_a_map_has_the_vectors_of_the_patches_and_a_vector_is_their_mean(run):
    x = series()
    batch = TileBatch({"s2": x}, {"s2": DAYS.expand(2, -1)}, {"s2": torch.ones(2, 3, dtype=torch.bool)})
    wanted = encoder(S2, S1)(batch).patches
    backbone = Backbone(run, dates=DATES)
    found = backbone(x)
    assert found.shape == (2, backbone.out_channels, 4, 4)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), wanted)
    torch.testing.assert_close(Backbone(run, output="vector", dates=DATES)(x), wanted.mean(1))
    torch.testing.assert_close(Backbone(run)(x, DAYS), found)
    other = Backbone(run, dates=DATES, bands={"s2": ["nir", "red", "green", "blue"]})
    torch.testing.assert_close(other(x.flip(2)), found)


def test_larger_inputs_are_cut_into_tiles_whose_maps_lie_side_by_side(run):
    x, backbone = series(16, 24), Backbone(run, dates=DATES)
    found = backbone(x)
    assert found.shape == (2, 16, 8, 12)
    torch.testing.assert_close(found[:, :, 4:, 4:8], backbone(x[..., 8:, 8:16]))
    radar = torch.randn(2, 3, 2, 8, 12) * 2 - 12  # pixels of 20 m over the same ground
    both = backbone({"s2": x, "s1": radar})
    tile = backbone({"s2": x[..., 8:, 8:16], "s1": radar[..., 4:, 4:8]})
    torch.testing.assert_close(both[:, :, 4:, 4:8], tile)


def test_it_is_trained_with_what_stands_on_it(run):
    backbone = Backbone(run, dates=DATES, output="vector")
    head = torch.nn.Linear(backbone.num_features, 2)
    optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.1)
    before = backbone(series()).detach()
    torch.nn.functional.cross_entropy(head(backbone(series())), torch.tensor([0, 1])).backward()
    optimizer.step()
    assert not torch.allclose(backbone(series()), before)
    fresh = Backbone(run, dates=DATES, output="vector", pretrained=False)
    assert not torch.allclose(fresh.eval()(series()), before)


def test_what_does_not_fit_is_said(run):
    with pytest.raises(ValueError, match=r"s2 is a series; give its dates"):
        Backbone(run)(series())
    with pytest.raises(ValueError, match=r"3 days of s2, whose values have 1 dates"):
        Backbone(run, dates=DATES)(series()[:, 0])
    with pytest.raises(ValueError, match=r"whole multiples of its sides; \(2, 3, 4, 9, 8\) given"):
        Backbone(run, dates=DATES)(series(9, 8))
    with pytest.raises(ValueError, match=r"no modality 's3'; the model has s2, s1"):
        Backbone(run, modality="s3")
    with pytest.raises(ValueError, match=r"s2 wants B02, B03, B04, B08, in any order; red given"):
        Backbone(run, bands={"s2": ["red"]})


@pytest.fixture
def terratorch(monkeypatch) -> ModuleType:
    """A stand-in with the registry, in the place where terratorch has it."""
    package, registry = ModuleType("terratorch"), ModuleType("terratorch.registry")
    registry.TERRATORCH_BACKBONE_REGISTRY = Registry()
    package.registry = registry
    monkeypatch.setitem(sys.modules, "terratorch", package)
    monkeypatch.setitem(sys.modules, "terratorch.registry", registry)
    return registry


def test_terratorch_builds_it_by_name(terratorch, run):
    register_backbone("fields_s2", run, dates=DATES)
    registry = terratorch.TERRATORCH_BACKBONE_REGISTRY
    assert "fields_s2" in registry
    x = series()
    wanted = Backbone(run, dates=DATES)(x)
    backbone = registry.build("fields_s2", pretrained=True, levels=4)
    maps = backbone(x.transpose(1, 2), image_size=(8, 8))  # (B, C, T, H, W)
    assert backbone.out_channels == [16] * 4 == [one.shape[1] for one in maps]
    torch.testing.assert_close(maps[0], wanted)
    (tokens,) = registry.build("fields_s2", features="tokens")(x.transpose(1, 2))
    torch.testing.assert_close(tokens, wanted.flatten(2).transpose(1, 2))
    # terratorch pads images to twice the first patch_size that any module has: a tile's size must stay as it is.
    assert not [name for name, module in backbone.named_modules() if hasattr(module, "patch_size")]
    with pytest.raises(ValueError, match="already has a backbone 'fields_s2'"):
        register_backbone("fields_s2", run)
    with pytest.raises(ValueError, match="'fields-s2' is no identifier"):
        register_backbone("fields-s2", run)


def test_terratorch_is_asked_for_where_it_is_missing(monkeypatch, run):
    monkeypatch.setitem(sys.modules, "terratorch", None)
    with pytest.raises(ImportError, match="pip install terratorch"):
        register_backbone("fields", run)


def test_a_model_of_images_takes_images(tmp_path):
    model = fusion.load(saved(tmp_path, encoder(AERIAL)), device="cpu")
    maps = Backbone(model)(torch.rand(3, 2, 64, 32) * 255)
    assert maps.shape == (3, 16, 8, 4)
