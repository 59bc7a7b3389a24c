"""Textons: codes of patches by colour and contrast."""

from __future__ import annotations

import math

import torch

from fusion.data import Modality
from fusion.tokenizers import PatchTextons

PHOTO = Modality("photo", "image", ("NIR", "R"), 1.0, 8, "8 bit", (100.0, 60.0), (30.0, 20.0))


def patches(kind: str, count: int, seed: int = 0) -> torch.Tensor:
    """(count, 2, 8, 8) of one colour on average: flat, in rows, or in spots, each somewhere else in its patch."""
    generator = torch.Generator().manual_seed(seed)
    phase = 2 * math.pi * torch.rand(count, 1, 1, 1, generator=generator)
    row, column = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    wave = {
        "flat": 0 * row,
        "rows": torch.cos(row * math.pi / 2 + phase),
        "spots": 2 * torch.cos(row * math.pi / 2 + phase) * torch.cos(column * math.pi / 2 + phase),
    }[kind]
    noise = torch.randn(count, 2, 8, 8, generator=generator)
    return torch.tensor([110.0, 50.0])[:, None, None] + 15 * wave + noise


def fitted(codes: int = 3) -> PatchTextons:
    textons = PatchTextons(PHOTO, codes)
    textons.fit(torch.cat([patches(kind, 100) for kind in ("flat", "rows", "spots")]))
    return textons


def test_textures_of_one_colour_have_codes_of_their_own_wherever_they_begin():
    textons = fitted()
    found = {kind: set(textons.encode(patches(kind, 50, seed=1)).tolist()) for kind in ("flat", "rows", "spots")}
    assert all(len(codes) == 1 for codes in found.values())
    assert len(set.union(*found.values())) == 3


def test_a_decoded_patch_has_the_mean_colour():
    textons = fitted()
    decoded = textons.decode(torch.arange(3))
    assert decoded.shape == (3, 2, 8, 8)
    torch.testing.assert_close(decoded[:, 0].mean((1, 2)), torch.full((3,), 110.0), rtol=0, atol=1.0)
    assert decoded.std((2, 3)).max() < 1e-3


def test_weights_travel_and_pixels_have_no_texture():
    again = PatchTextons(PHOTO, 3)
    again.load_state_dict(fitted().state_dict())
    assert again.encode(patches("rows", 5)).equal(fitted().encode(patches("rows", 5)))
    pixel = PatchTextons(Modality("x", "image", ("a",), 1.0, 1), 4)
    values = torch.tensor([0.0, 1.0, 5.0, 9.0]).repeat(20).reshape(-1, 1, 1, 1)
    pixel.fit(values)
    torch.testing.assert_close(pixel.decode(pixel.encode(values)), values, rtol=0, atol=1e-4)
