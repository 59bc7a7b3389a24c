"""Extraction is deterministic, leaves the model as it was, and refuses data of another kind."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_system import S2, VHR, Meadows, TinyConfig, TinyModel

from fusion.data import Modality
from fusion.evaluation import extract, random_encoder, raw_statistics
from fusion.evaluation.features import extract_pools


@pytest.fixture
def model() -> TinyModel:
    torch.manual_seed(0)
    return TinyModel(TinyConfig())


def test_tiles_and_patches(model):
    data = Meadows(5)
    tiles, patches = extract(model, data), extract(model, data, level="patch")
    assert tiles.x.shape == (5, 8)
    assert patches.x.shape == (20, 8)
    np.testing.assert_allclose(patches.x.reshape(5, 4, 8).mean(1), tiles.x, rtol=1e-5)
    assert patches.maps().shape == (5, 2, 2, 8)
    assert patches.names[:5] == ("tile0",) * 4 + ("tile1",)
    assert patches.y.tolist() == np.repeat(tiles.y, 4).tolist() == np.repeat([0, 1, 0, 1, 0], 4).tolist()
    with pytest.raises(ValueError, match="level='patch'"):
        tiles.maps()
    assert extract(model, data, pool="both").x.shape == (5, 16)


def test_several_pools_are_of_tiles_that_are_read_and_encoded_once(model, monkeypatch):
    data, read, seen = Meadows(5), [], []
    get, forward = Meadows.__getitem__, model.forward
    monkeypatch.setattr(Meadows, "__getitem__", lambda self, i: read.append(i) or get(self, i))
    monkeypatch.setattr(model, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    found = extract_pools(model, data, pools=("mean", "summary", "both"), batch_size=2)
    assert sum(seen) == 5
    several = len(read)
    for pool, features in found.items():
        assert (features.x == extract(model, data, pool=pool, batch_size=2).x).all()
    assert len(read) == 4 * several


def test_batches_do_not_matter_and_the_model_stays_as_it_was(model):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one, many = extract(model, Meadows(7), batch_size=1), extract(model, Meadows(7), batch_size=7)
    np.testing.assert_allclose(one.x, many.x, rtol=1e-5, atol=1e-6)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_chosen_modalities_only(model):
    data = Meadows(4)
    alone = extract(model, data, ["vhr"]).x
    assert np.array_equal(alone, extract(model, data.with_modalities(["vhr"])).x)
    assert not np.allclose(alone, extract(model, data).x)
    with pytest.raises(ValueError, match="no modality 's1'"):
        extract(model, data, ["s1"])


def test_data_of_another_kind_is_refused(model):
    def refused(message: str, *modalities: Modality, grid: tuple[int, int] = (2, 2)) -> None:
        data = Meadows(3)
        data.modalities, data.grid = modalities, grid
        with pytest.raises(ValueError, match=message):
            extract(model, data, [m.name for m in modalities])

    refused("the model wants B03, B04, B08 in this order", replace(S2, bands=("B04", "B03", "B08")))
    refused("unit is 'reflectance' in the data and 'reflectance x 10000' in the model", replace(S2, unit="reflectance"))
    refused("the model has s2, vhr, not spot", S2, replace(VHR, name="spot"))
    refused("trained on tiles of 2 x 2 patches, the data have 2 x 3", S2, grid=(2, 3))


def test_values_ten_times_too_small_are_refused(monkeypatch):
    fitted = TinyConfig(modalities=(S2.with_statistics((2000, 2000, 2000), (500, 500, 500)), VHR))
    read = Meadows._read

    def scaled(self, row, rng):
        tile = read(self, row, rng)
        tile.values["s2"] *= 0.1
        return tile

    monkeypatch.setattr(Meadows, "_read", scaled)
    with pytest.raises(ValueError, match=r"these are about .* times smaller"):
        extract(TinyModel(fitted), Meadows(3))


def test_statistics_may_differ(model):
    data = Meadows(3)
    data.modalities = (S2.with_statistics((0, 0, 0), (1, 1, 1)), VHR)
    assert extract(model, data).x.shape == (3, 8)


def test_vectors_that_are_not_finite_name_their_tiles(model):
    with torch.no_grad():
        model.encoders["s2"].weight.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"no finite vector for 3 of 3 tiles, e.g. tile0, tile1, tile2"):
        extract(model, Meadows(3), level="patch")


def test_bad_choices_are_named(model):
    with pytest.raises(ValueError, match="level 'tile' or 'patch'"):
        extract(model, Meadows(3), level="pixel")


def test_raw_statistics_are_means_spreads_and_seasons():
    data = Meadows(4)
    tile = data[1]
    features = raw_statistics(data, seasons=4)
    assert features.x.shape == (4, 6 * 3 + 2 * 3)
    s2 = tile.values["s2"].numpy()
    np.testing.assert_allclose(features.x[1, :3], s2.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(features.x[1, 3:6], s2.transpose(1, 0, 2, 3).reshape(3, -1).std(1), rtol=1e-4)
    np.testing.assert_allclose(features.x[1, 6:9], s2[0].mean((1, 2)), rtol=1e-5)  # day 10: first quarter
    np.testing.assert_allclose(features.x[1, 15:18], s2[3].mean((1, 2)), rtol=1e-5)  # day 280: last quarter
    np.testing.assert_allclose(features.x[1, 18:21], tile.values["vhr"].numpy().mean((1, 2)), rtol=1e-5)


def test_raw_statistics_pass_over_invalid_dates_and_missing_modalities(monkeypatch):
    data = Meadows(3)
    read = Meadows._read

    def cloudy(self, row, rng):
        tile = read(self, row, rng)
        tile.valid["s2"] = torch.tensor([True, False, True, True])
        tile.values["s2"][1] = 1e6
        if row == 2:
            del tile.values["vhr"]
        return tile

    clear = raw_statistics(data).x
    monkeypatch.setattr(Meadows, "_read", cloudy)
    x = raw_statistics(data).x
    assert x[:2].max() < 1e4
    np.testing.assert_allclose(x[0, 9:12], x[0, :3])  # the season without a date has the tile's mean
    np.testing.assert_allclose(x[0, 6:9], clear[0, 6:9])
    assert np.isnan(x[2, 18:]).all()
    assert not np.isnan(x[:2]).any()
    with pytest.raises(ValueError, match="seasons must be at least 1, not 0"):
        raw_statistics(data, seasons=0)


def test_the_random_encoder_sees_well_scaled_inputs(model):
    data, state = Meadows(12), torch.get_rng_state()
    a, b, c = (random_encoder(model, data, seed) for seed in (5, 5, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.encoders["s2"].weight, c.encoders["s2"].weight)
    assert not torch.equal(a.encoders["s2"].weight, model.encoders["s2"].weight)
    x = extract(a, data, level="patch").x
    np.testing.assert_allclose(x.mean(0), 0, atol=0.05)  # batch norm has the statistics of these tiles
    np.testing.assert_allclose(x.std(0), 1, atol=0.05)
    assert not a.training
