"""PSE + L-TAE: sets of pixels, and what is drawn of them."""

import pytest
import torch

from fusion.baselines import PseLtae, PseLtaeConfig
from fusion.baselines.base import Series
from fusion.baselines.pixel_set import draw_pixels, mean_and_deviation, pixels_by_patch
from fusion.data import Modality

from .kinds import AERIAL, GRID, S2, batch, built, trained

SENTINEL = Modality("s2", "series", tuple(f"B{k:02d}" for k in range(1, 11)), 10.0, 1)


def test_the_size_of_the_encoder_of_ten_bands_with_the_papers_widths():
    """Without the classifier, a part of the paper's model: here the head belongs to fine-tuning."""
    model = PseLtae(PseLtaeConfig.preset("paper", (SENTINEL,), (6, 6)))
    assert sum(p.numel() for p in model.parameters()) == 135_648


def test_a_tile_is_a_set_of_pixels():
    """Where a pixel lies in the tile does not matter to the summary, nor within a patch to the patch."""
    model, tiles = trained("pse-ltae"), batch("pse-ltae")
    before = model(tiles)
    tiles.values["s2"] = tiles.values["s2"].flip(-2, -1)  # also turns the grid of patches
    summary = model(tiles).summary
    torch.testing.assert_close(summary, before.summary, rtol=1e-5, atol=1e-5)
    for name in tiles.values:
        tiles.values[name] = batch("pse-ltae").values[name].flip(-2, -1)
    torch.testing.assert_close(model(tiles).patches.flip(1), before.patches, rtol=1e-5, atol=1e-5)


def test_a_tile_of_one_patch_is_its_patch():
    model = PseLtae(PseLtaeConfig.preset("tiny", (S2,), (1, 1))).eval()
    tiles = batch("pse-ltae").select(["s2"])
    tiles.values["s2"] = tiles.values["s2"][..., :5, :5]
    found = model(tiles)
    torch.testing.assert_close(found.patches[:, 0], found.summary, rtol=1e-5, atol=1e-5)


def test_patches_do_not_change_what_training_says_of_a_tile():
    """Batch normalisations have the statistics of tiles: a tile cut into one patch has the same summary."""
    model, tiles = built("pse-ltae", pixels=10**6).double(), batch("pse-ltae", tiles=4)
    tiles.values |= {name: values.double() for name, values in tiles.values.items()}
    by_patch = model(tiles)
    as_one = built("pse-ltae", pixels=10**6).double()
    for name, encoder in as_one.encoders.items():
        series = model._series(tiles, name, tiles.valid_tiles(name))
        encoder.grid = (1, 1)
        torch.testing.assert_close(encoder(series)[:, 0], model.encoders[name](series)[:, 0])
    assert not torch.allclose(by_patch.patches[:, 0], by_patch.summary)


@pytest.mark.parametrize("training", [True, False])
def test_a_tile_with_pixels_that_were_not_observed_is_one_without_them(training):
    model, tiles = built("pse-ltae", pixels=10**6).double().train(training), batch("pse-ltae", tiles=4)
    tiles.values |= {name: values.double() for name, values in tiles.values.items()}
    observed = torch.ones_like(tiles.values["s2"], dtype=torch.bool)
    observed[..., 7:] = False
    observed[:, :, 1, :, 6] = False  # one band of two is not enough
    tiles.observed["s2"] = observed
    encoder, every = model.encoders["s2"], torch.ones(4, dtype=torch.bool)
    encoder.grid = (1, 1)
    series = model._series(tiles, "s2", every)
    without = Series(series.values[..., :6], series.days, series.valid, torch.ones(4, 5, 10, 6, dtype=torch.bool))
    torch.testing.assert_close(encoder(series), encoder(without))


def test_pixels_of_a_patch_are_those_of_its_place():
    values = torch.arange(4 * 6.0).view(1, 1, 1, 4, 6)
    series = Series(values, torch.zeros(1, 1), torch.ones(1, 1) > 0, values[:, :, 0] > 7)
    pixels, observed = pixels_by_patch(series, (2, 3))
    assert pixels.shape == (1, 1, 6, 4, 1)
    assert pixels[0, 0, 1, :, 0].tolist() == [2, 3, 8, 9]
    assert observed[0, 0, 1].tolist() == [False, False, True, True]


def test_observed_pixels_are_drawn_first_and_none_twice():
    values = torch.arange(9.0).view(1, 1, 1, 9, 1)
    observed = (values[..., 0] % 2) > 0  # four of nine
    for seed in range(20):
        torch.manual_seed(seed)
        drawn, seen = draw_pixels(values, observed, 4)
        assert sorted(drawn.flatten().tolist()) == [1, 3, 5, 7]
        assert seen.all()
    drawn, seen = draw_pixels(values, observed, 6)
    assert len(set(drawn.flatten().tolist())) == 6
    assert seen.sum() == 4
    assert draw_pixels(values, observed, 9)[0] is values
    torch.manual_seed(0)
    assert len({tuple(draw_pixels(values, observed, 2)[0].flatten().tolist()) for _ in range(50)}) > 4


def test_training_draws_pixels_and_evaluation_takes_all():
    model, tiles = built("pse-ltae", pixels=24), batch("pse-ltae")
    seen = []
    layer = model.encoders["s2"].pixel_layers[0]
    layer.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[2:4]))
    model(tiles)
    model.eval()(tiles)
    assert seen == [(6, 4), *[(6, 25)] * 3]  # evaluation goes tile by tile


def test_mean_and_deviation_are_those_of_what_was_observed():
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    observed = torch.tensor([[1] * 7, [0, 1, 1, 0, 0, 1, 0], [0] * 7]) > 0
    found = mean_and_deviation(x, observed)
    for k in range(2):
        own = x[k][observed[k]]
        expected = torch.cat((own.mean(0), own.std(0, unbiased=False)))
        torch.testing.assert_close(found[k], expected, rtol=1e-6, atol=1e-6)
    assert found[2].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("modalities", "fields", "told"),
    [
        ((S2, AERIAL), {}, "aerial is an image, and PseLtae encodes series only; leave it out"),
        ((S2,), {"dim": 30}, "dim=30 is not a multiple of 4, see heads"),
        ((S2,), {"date_dim": 30}, "date_dim=30 is not a multiple of 4"),
        ((S2,), {"temporal_dim": 36}, "temporal_dim=36 is not a multiple of 8"),
        ((S2,), {"pixels": 0}, "pixels must be at least 1"),
        ((S2,), {"pixel_widths": ()}, "pixel_widths name a layer"),
    ],
)
def test_what_cannot_be_is_refused(modalities, fields, told):
    with pytest.raises(ValueError, match=told):
        PseLtaeConfig.preset("tiny", modalities, GRID, **fields)
