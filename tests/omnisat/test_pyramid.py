"""Maps for heads that label pixels."""

from __future__ import annotations

import dataclasses

import torch

from fusion.omnisat import OmniSat
from fusion.omnisat.image import patchify_image
from fusion.omnisat.pyramid import levels


@torch.no_grad()
def test_maps_are_the_patch_grid_and_what_encoders_have_inside(config, batch):
    model, data = OmniSat(config).eval(), batch(2)
    maps = model.pyramid(data)
    assert [(level.modality, level.side) for level in levels(config)] == [("aerial", 2), ("s2", 2), ("aerial", 5)]
    assert [tuple(m.shape) for m in maps] == [(2, 16, 2, 3), (2, 16, 4, 6), (2, 2, 4, 6), (2, 16, 10, 15)]
    assert model.pyramid_channels == tuple(m.shape[1] for m in maps)
    assert torch.equal(maps[0].flatten(2).mT, model(data).patches)


@torch.no_grad()
def test_a_map_lies_where_its_patch_lies(config, batch):
    """The map of one patch, encoded alone, is found at its place."""
    model, data = OmniSat(config).eval(), batch(2)
    values = (data.values["aerial"] - torch.tensor([3.0, 4.0, 5.0])[:, None, None]) / 2  # as the configuration says
    alone: list[torch.Tensor] = []
    model.encoders["aerial"](patchify_image(values, 10)[6 + 4 : 6 + 5], maps=alone)  # tile 1, row 1, column 1
    whole = model.pyramid(data)[3][1, :, 5:10, 5:10]
    torch.testing.assert_close(whole, alone[-1][0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_series_gives_its_mean_over_dates_by_attention(config, batch):
    model, data = OmniSat(config).eval(), batch(2, 6)
    data.valid["s2"][1, 3:] = False
    data.values["s2"][1, 3:] = 1e6
    attention = model.encode(data).attention["s2"]
    expected = (data.values["s2"] * attention[:, :, None, None, None]).sum(1)
    torch.testing.assert_close(model.pyramid(data)[2], expected, atol=1e-5, rtol=1e-4)
    assert attention[1, 3:].eq(0).all()


@torch.no_grad()
def test_what_a_tile_does_not_have_is_zero(config, batch):
    model, data = OmniSat(config).eval(), batch(2)
    data.valid["aerial"][0] = False
    maps = model.pyramid(data)
    assert maps[1][0].eq(0).all()
    assert maps[3][0].eq(0).all()
    assert maps[1][1].ne(0).any()
    without = model.pyramid(data.select(["s2", "dem"]))
    assert [m.shape for m in without] == [m.shape for m in maps]
    torch.testing.assert_close(without[0][0], maps[0][0], atol=1e-5, rtol=1e-4)
    assert without[3].eq(0).all()


def test_patches_of_one_pixel_have_no_further_map(config):
    coarse = tuple(m for m in config.modalities if m.name == "dem")
    assert OmniSat(dataclasses.replace(config, modalities=coarse)).pyramid_channels == (16,)
