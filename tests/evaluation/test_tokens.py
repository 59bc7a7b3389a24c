"""Features of single modalities, before they are combined."""

import pytest
import torch
from torch import nn

from fusion.data import Landscape, LandscapeTiles, collate, fit_statistics
from fusion.evaluation import extract
from fusion.omnisat import OmniSat, OmniSatConfig


class Gappy(LandscapeTiles):
    """Every tile from the third on lacks radar, and nobody has it in the last batches."""

    def _read(self, row, rng):
        tile = super()._read(row, rng)
        if row >= 2:
            for part in (tile.values, tile.days, tile.valid):
                part.pop("s1", None)
        return tile


@pytest.fixture(scope="module")
def world():
    data = Gappy(Landscape(64, fine=2), block=2, max_dates=4)
    torch.manual_seed(0)
    small = {"dim": 16, "heads": 2, "series_heads": 2, "depth": 1}
    model = OmniSat(OmniSatConfig.preset("tiny", fit_statistics(data, 16), data.grid, **small)).eval()
    return model, data.subset(range(6))


def test_tokens_are_the_mean_of_each_modality_in_the_order_of_the_model(world):
    model, data = world
    features = extract(model, data, pool="tokens", batch_size=2)
    assert features.x.shape == (6, 3 * 16)
    with torch.inference_mode():
        seen = model.encode(collate([data[0], data[1]]))
    for m, name in enumerate(("aerial", "s2", "s1")):
        wanted = seen.tokens[seen.names.index(name)].mean(1)  # (2, D)
        torch.testing.assert_close(torch.from_numpy(features.x[:2, 16 * m : 16 * (m + 1)]), wanted)


def test_a_missing_modality_is_zero_whoever_shares_the_batch(world):
    model, data = world
    alone, together = (extract(model, data, pool="tokens", batch_size=size).x for size in (2, 6))
    assert (alone[2:, 32:] == 0).all()
    assert (alone[:2, 32:] != 0).any()
    torch.testing.assert_close(torch.from_numpy(alone), torch.from_numpy(together))


def test_fewer_modalities_give_fewer_columns(world):
    model, data = world
    both = extract(model, data, ["s2", "aerial"], pool="tokens").x
    torch.testing.assert_close(torch.from_numpy(both), torch.from_numpy(extract(model, data, pool="tokens").x[:, :32]))


def test_a_model_without_tokens_says_so(world):
    _, data = world
    with pytest.raises(ValueError, match="Linear has no tokens of single modalities"):
        extract(nn.Linear(1, 1), data, pool="tokens")


def test_seasons_and_months_keep_parts_of_the_year_apart(world):
    model, data = world
    seasons = extract(model, data, pool="seasons", batch_size=4).x.reshape(6, 3, 4, 16)  # tile, modality, season
    assert extract(model, data, pool="months").x.shape == (6, 3 * 12 * 16)
    assert (seasons[2:, 2] == 0).all()  # a modality that a tile lacks
    batch = collate([data[0], data[1]])
    with torch.inference_mode():
        image, year = (model.encode(batch).tokens[m].mean(1) for m in (0, 1))  # (2, D)
        for part in range(4):
            season = model.encode(batch.part_of_year(part, 4).select(["s2"]))
            wanted = torch.where(season.valid[0, :, None], season.tokens[0].mean(1), year)
            torch.testing.assert_close(torch.from_numpy(seasons[:2, 1, part]), wanted)
            torch.testing.assert_close(torch.from_numpy(seasons[:2, 0, part]), image)
