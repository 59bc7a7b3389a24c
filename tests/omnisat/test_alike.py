"""Weather beside images: attended to, not contrasted patch by patch, masked as one and reconstructed once."""

from __future__ import annotations

import warnings

import pytest
import torch

from fusion.data import Modality, TileBatch
from fusion.omnisat import OmniSat, OmniSatConfig, PretrainingObjective
from fusion.omnisat.alike import counted_once, masked_as_one, same_in_all_patches

WEATHER = Modality("weather", "series", ("t", "rain"), 20.0, 1)
IMAGES = ("aerial", "s2", "dem")


def with_weather(data: TileBatch, seed: int = 5) -> TileBatch:
    tiles, dates = len(data), 7
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(tiles, dates, 2, 1, 1, generator=draw).expand(-1, -1, -1, 2, 3).contiguous()
    data.values["weather"], data.days["weather"] = values, torch.arange(dates).repeat(tiles, 1) * 30
    data.valid["weather"] = torch.ones(tiles, dates, dtype=torch.bool)
    return data


@pytest.fixture
def system(config) -> tuple[OmniSat, PretrainingObjective]:
    wide = OmniSatConfig.from_dict(config.to_dict() | {"modalities": (*config.modalities, WEATHER)})
    return OmniSat(wide).eval(), PretrainingObjective(wide, mask_ratio=0.5).eval()


def test_only_what_is_equal_in_all_patches_of_a_valid_tile_is_alike(system, batch):
    data = with_weather(batch(3))
    data.values["dem"][1] = 4.0  # flat ground
    data.values["weather"][2, 3, 1, 0, 1] += 1  # one value of one date in one patch
    data.values["s2"][0], data.valid["s2"][0] = 0.0, False
    alike = same_in_all_patches(system[0].encode(data), 6)
    assert alike.tolist() == [[False] * 3, [False] * 3, [False, True, False], [True, True, False]]
    assert not same_in_all_patches(system[0].encode(data), 1).any()


def test_weather_changes_no_contrast_and_is_attended_to(system, batch):
    model, objective = system
    with torch.no_grad():
        without = objective(model, batch(3), torch.Generator().manual_seed(0))
        losses = objective(model, with_weather(batch(3)), torch.Generator().manual_seed(0))
        torch.testing.assert_close(losses.contrastive, without.contrastive)
        assert losses.retrieval == without.retrieval
        seen = [model(with_weather(batch(3), seed)).summary for seed in (5, 6)]
    assert not torch.allclose(*seen)


def test_what_varies_between_patches_is_contrasted_as_ever(system, batch):
    model, objective = system
    data = with_weather(batch(3))
    data.values["weather"] += torch.arange(3) * 0.1  # warmer in the east
    with torch.no_grad():
        varied = objective.contrast(model.encode(data), same_in_all_patches(model.encode(data), 6))[0]
        plain = objective.contrast(model.encode(data), torch.zeros(4, 3, dtype=torch.bool))[0]
    assert torch.equal(varied, plain)


def test_weather_is_masked_as_one_and_counts_once_a_tile(system, batch):
    model, objective = system
    data = with_weather(batch(4))
    with torch.no_grad():
        seen = model.encode(data)
        alike = same_in_all_patches(seen, 6)
        for seed in range(4):
            errors = objective.reconstruct(model, seen, data, torch.Generator().manual_seed(seed), alike)
            assert errors["weather"][1].sum() <= 4
            assert errors["s2"][1].all()
    hidden = torch.tensor([[[True, False, False], [False, True, True]]])  # (M, B, P)
    assert masked_as_one(hidden, torch.tensor([[True, True]])).tolist() == [[[True] * 3, [False] * 3]]
    assert torch.equal(masked_as_one(hidden, torch.tensor([[False, False]])), hidden)
    rows = torch.tensor([0, 2, 4, 5, 6])  # two patches of tile 0 and of tile 1, one of tile 2, of three patches each
    assert counted_once(torch.tensor([True, True, False]), rows, 3).tolist() == [True, False, False, False, True]


def test_the_first_step_says_so_once(system, batch):
    model, objective = system
    objective.train()
    with pytest.warns(UserWarning, match="OmniSat: weather: the same values in all patches of a tile"):
        objective(model, with_weather(batch(2))).total.backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(model, with_weather(batch(2)))
        fresh = PretrainingObjective(model.config).train()
        fresh(model, batch(2))
