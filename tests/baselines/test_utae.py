"""U-TAE: its levels, its masks, its maps."""

import pytest
import torch

from fusion.baselines import Utae, UtaeConfig
from fusion.baselines.maps import finer_levels
from fusion.baselines.utae import level_sizes, weigh_dates
from fusion.data import Modality, TileBatch

from .kinds import AERIAL, GRID, S1, S2, batch, trained

SENTINEL = Modality("s2", "series", tuple(f"B{k:02d}" for k in range(1, 11)), 10.0, 16)


def series(modality: Modality, grid: tuple[int, int], tiles: int = 2, length: int = 3) -> TileBatch:
    size = grid[0] * modality.patch_size, grid[1] * modality.patch_size
    values = {modality.name: torch.randn(tiles, length, modality.channels, *size)}
    valid = {modality.name: torch.ones(tiles, length, dtype=torch.bool)}
    return TileBatch(values, {modality.name: torch.arange(length).expand(tiles, -1)}, valid, names=("a", "b"))


def test_the_size_is_the_papers():
    """The paper's U-TAE of ten bands has 1.1 million parameters, with its classifier of pixels, which is not here."""
    model = Utae(UtaeConfig.preset("paper", (SENTINEL,), (8, 8)))
    assert sum(p.numel() for p in model.parameters()) == 1_092_736


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((6, 6), [(6, 6), (3, 3)]),
        ((7, 4), [(7, 4), (3, 2)]),
        ((2, 9), [(2, 9)]),
        ((128, 128), [(128, 128), (64, 64), (32, 32), (16, 16)]),
    ],
)
def test_no_level_is_smaller_than_two_pixels(size, expected):
    assert level_sizes(size, 4) == expected


@pytest.mark.parametrize("grid", [(2, 2), (6, 6), (5, 7), (13, 9), (32, 32)])
def test_tiles_of_any_size_have_maps(grid):
    pixel = Modality("s2", "series", ("B02",), 10.0, 1)
    model = Utae(UtaeConfig.preset("tiny", (pixel,), grid))
    assert model(series(pixel, grid)).patches.shape == (2, grid[0] * grid[1], 32)
    assert model.streams["s2"].shapes[-1] == (16, *grid)


def test_the_papers_model_takes_tiles_of_128_pixels():
    model = Utae(UtaeConfig.preset("paper", (SENTINEL,), (8, 8))).eval()
    with torch.inference_mode():
        maps = model.pyramid(series(SENTINEL, (8, 8), length=2))
    assert [each.shape[-1] for each in maps] == [8, 16, 32, 64, 128]


def test_the_pyramid_goes_from_patches_to_pixels():
    model, tiles = trained("utae"), batch("utae")
    maps = model.pyramid(tiles)
    sizes = [(2, 3), (5, 7), (10, 15)]  # the coarsest map of s2, 2 x 3, is no finer than the patches
    expected = [(3, channels, *size) for channels, size in zip(model.pyramid_channels, sizes, strict=True)]
    assert [tuple(each.shape) for each in maps] == expected
    assert torch.equal(maps[0].flatten(2).mT, model(tiles).patches)


def test_levels_are_those_of_the_finest_stream_beside_the_maps_that_fit_them():
    fine, coarse = [(8, 3, 3), (4, 6, 6), (2, 12, 12)], [(7, 3, 3), (5, 6, 6)]
    assert finer_levels([coarse, fine], (3, 3)) == [((6, 6), [1, 1]), ((12, 12), [1, 2])]
    assert finer_levels([fine], (1, 1)) == [((3, 3), [0]), ((6, 6), [1]), ((12, 12), [2])]
    assert finer_levels([[(8, 3, 3), (4, 3, 3)]], (2, 2)) == [((3, 3), [0])]
    assert finer_levels([coarse, fine], (12, 12)) == []


def test_maps_of_a_modality_that_is_missing_are_zero():
    model, tiles = trained("utae"), batch("utae")
    tiles.valid["s1"][1] = False
    finest = model.pyramid(tiles)[-1]
    assert not finest[1, 16:].any()
    assert finest[0, 16:].any()
    assert finest[1, :16].any()


def test_a_change_of_a_pixel_is_seen_where_it_is():
    """The finest map is one of pixels: what changes in a corner changes that corner most."""
    model, tiles = trained("utae"), batch("utae")
    before = model.pyramid(tiles)[-1]
    tiles.values["s2"][:, :, :, 0, 0] += 3
    moved = (model.pyramid(tiles)[-1] - before).abs().sum(1)[0]  # (H, W)
    assert moved[:3, :3].mean() > 3 * moved[5:, 5:].mean()


def test_a_head_weighs_its_own_channels():
    """With masks of the size of the map, each head's channels are the sum over dates with its weights."""
    dates, masks = torch.randn(2, 5, 6, 4, 3), torch.rand(2, 3, 5, 4, 3)
    found = weigh_dates(dates, masks)
    for head in range(3):
        own = (dates[:, :, 2 * head : 2 * head + 2] * masks[:, head, :, None]).sum(1)
        torch.testing.assert_close(found[:, 2 * head : 2 * head + 2], own)


def test_enlarged_masks_still_sum_to_one():
    masks = torch.rand(1, 2, 5, 3, 2).softmax(2)
    torch.testing.assert_close(weigh_dates(torch.ones(1, 5, 4, 7, 5), masks), torch.ones(1, 4, 7, 5))


@pytest.mark.parametrize(
    ("modalities", "grid", "fields", "told"),
    [
        ((S2, AERIAL), GRID, {}, "aerial is an image, and Utae encodes series only; leave it out"),
        ((S1,), (1, 1), {"encoder_widths": (18, 16, 32)}, "encoder_widths=18 is not a multiple of 4"),
        ((S1,), (1, 1), {"heads": 2, "encoder_widths": (18, 16, 32)}, r"18 is not a multiple of 4 \(group norms\)"),
        ((S1,), (1, 1), {"decoder_widths": (16,)}, "3 encoder_widths .* need one decoder_width less"),
        ((S1,), (1, 1), {"temporal_dim": 36}, "temporal_dim=36 is not a multiple of 8"),
        ((Modality("s1", "series", ("VV",), 10.0, 1),), (1, 3), {}, "tiles of s1 have 1 x 3 pixels"),
    ],
)
def test_what_cannot_be_is_refused(modalities, grid, fields, told):
    with pytest.raises(ValueError, match=told):
        UtaeConfig.preset("tiny", modalities, grid, **fields)
