"""Networks for images: their maps, series as images, and what timm takes."""

import importlib.util
import sys

import pytest
import torch

from fusion.baselines import ImageConfig, ImageModel
from fusion.baselines.image import composite
from fusion.baselines.resnet import ResNet
from fusion.baselines.vit import token_side
from fusion.data import Modality

from .kinds import AERIAL, GRID, S2, batch, built, trained

PHOTO = Modality("aerial", "image", ("R", "G", "B"), 0.2, 50)
# timm imports torchvision, which this project never installs: PyPI's does not fit every build of torch.
TORCHVISION = importlib.util.find_spec("torchvision") is not None and importlib.util.find_spec("timm") is not None


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_sizes_are_the_papers():
    """ResNet-18 without its classifier has 11.18 million parameters, ViT-Ti of 16 pixels and 224 has 5.52."""
    assert count(ResNet(3, (224, 224))) == 11_176_512
    tokens = Modality("aerial", "image", ("R", "G", "B"), 1.0, 16)
    vit = ImageModel(ImageConfig.preset("paper", (tokens,), (14, 14), backbone="vit-tiny")).streams["aerial"]
    assert count(vit) == 5_524_032


@pytest.mark.parametrize(
    ("size", "sides"),
    [(300, [10, 19, 38, 75]), (64, [2, 4, 8, 16]), (40, [5, 10, 20, 40]), (3, [3, 3, 3, 3]), (1, [1] * 4)],
)
def test_images_of_any_size_have_four_maps(size, sides):
    network = ResNet(2, (size, size), width=16)
    assert [shape[1] for shape in network.shapes] == sides
    assert [tuple(each.shape[1:]) for each in network(torch.randn(1, 2, size, size))] == network.shapes


def test_the_pyramid_goes_from_patches_to_the_finest_stage():
    model, tiles = trained("resnet18"), batch("resnet18")
    maps = model.pyramid(tiles)
    assert [tuple(each.shape[-2:]) for each in maps] == [(2, 3), (3, 4), (5, 8), (10, 15), (20, 30)]
    assert tuple(each.shape[1] for each in maps) == model.pyramid_channels
    assert torch.equal(maps[0].flatten(2).mT, model(tiles).patches)


def test_tokens_of_a_transformer_lie_within_patches():
    assert [token_side(size, 16) for size in (50, 16, 17, 1, 30)] == [10, 16, 1, 1, 15]
    model = ImageModel(ImageConfig.preset("tiny", (PHOTO,), (6, 6), backbone="vit-tiny"))
    assert model.streams["aerial"].shapes == [(64, 30, 30)]
    assert model.pyramid_channels == (32, 64)


@pytest.mark.parametrize("median", [True, False])
def test_a_series_becomes_the_median_or_mean_of_what_was_observed(median):
    tiles, rows = batch("median"), torch.tensor([True, False, True])
    tiles.valid["s2"][0, 1:3] = False
    tiles.observed["s2"] = torch.ones_like(tiles.values["s2"], dtype=torch.bool)
    tiles.observed["s2"][2, :4, :, 0, 0] = False
    tiles.observed["s2"][2, :, :, 1, 1] = False
    values = tiles.values["s2"][rows]
    image = composite(tiles, "s2", rows, values, median)
    valid = values[0, [0, 3, 4]]
    torch.testing.assert_close(image[0], valid.median(0).values if median else valid.mean(0))
    assert torch.equal(image[1, :, 0, 0], values[1, 4, :, 0, 0])
    assert not image[1, :, 1, 1].any()


def test_an_image_may_be_resized_before_the_network():
    model = ImageModel(ImageConfig.preset("tiny", (AERIAL,), GRID, image_size=64))
    assert model.streams["aerial"].shapes[-1] == (16, 16, 16)
    assert model(batch("resnet18").select(["aerial"])).patches.shape == (3, 6, 32)


@pytest.mark.parametrize(
    ("modalities", "fields", "told"),
    [
        ((AERIAL, S2), {}, "s2 is a series, and the network encodes images; give series='median'"),
        ((AERIAL,), {"backbone": "resnet50"}, "not 'resnet50'; a model of timm is named timm:resnet50"),
        ((AERIAL,), {"series": "maximum"}, "'median' or 'mean', not 'maximum'"),
        ((AERIAL,), {"pretrained": True}, "no pretrained weights of resnet18; only timm:<name> has some"),
        ((AERIAL,), {"image_size": -1}, "image_size is a number of pixels"),
        ((AERIAL,), {"image_size": 64, "backbone": "vit-tiny"}, "leave image_size out"),
        ((AERIAL,), {"vit_heads": 3}, "vit_dim=64 is not a multiple of vit_heads=3"),
        ((AERIAL,), {"resnet_width": 20}, "resnet_width=20 is not a multiple of 16"),
    ],
)
def test_what_cannot_be_is_refused(modalities, fields, told):
    with pytest.raises(ValueError, match=told):
        ImageConfig.preset("tiny", modalities, GRID, **fields)


def test_without_timm_its_models_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"backbone timm:resnet18 takes timm and torchvision .* pip install timm"):
        built("resnet18", backbone="timm:resnet18")


@pytest.mark.skipif(not TORCHVISION, reason="timm and torchvision are not installed")
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_models_of_timm_make_maps(name):
    model = built("resnet18", backbone=f"timm:{name}", image_size=224)
    tiles = batch("resnet18")
    assert model(tiles).summary.shape == (3, 32)
    maps = model.pyramid(tiles)
    assert tuple(each.shape[1] for each in maps) == model.pyramid_channels
    assert [each.shape[-1] for each in maps] == sorted(each.shape[-1] for each in maps)


@pytest.mark.skipif(not TORCHVISION, reason="timm and torchvision are not installed")
def test_what_timm_does_not_have_is_named():
    with pytest.raises(ValueError, match=r"backbone timm:nothing makes no maps .* Unknown model"):
        built("resnet18", backbone="timm:nothing")
