"""Values to tokens and back, for every kind."""

import numpy as np
import pytest
import torch
from torch import nn

from fusion.data import collate
from fusion.data.arrays import ArrayTiles
from fusion.token_fusion import TileTokenizer, TokenFusionConfig, register_tokenizer

from .small_places import GRID, MODALITIES, TOKENIZERS, make_places

CALENDAR = {"start": 0, "step": 10, "length": 18}
SERIES = {
    "bins": {"bins": 64},
    "quantile": {"bins": 64},
    "mu-law": {"bins": 256},
    "mean-scale": {"bins": 512, "low": -2, "high": 4},
    "sax": {"segments": 9, "alphabet": 16},
    "patch-vq": {"patch": 3, "codebook_size": 32, "dim": 8, "hidden": 16, "steps": 150},
    "patch-fsq": {"patch": 3, "levels": [5, 5, 5], "hidden": 16, "steps": 150},
}
IMAGES = {
    "vq": {"codebook_size": 32, "dim": 4, "hidden": 32, "steps": 150},
    "fsq": {"levels": [5, 5, 5], "hidden": 32, "steps": 150},
    "bins": {"bins": 64},
    "scalar": {"bins": 64},
}


def tokenizer(**settings) -> TileTokenizer:
    return TileTokenizer(TokenFusionConfig.preset("tiny", MODALITIES, GRID, tokenizers=settings | {}))


def fitted(**settings) -> TileTokenizer:
    return tokenizer(**{**TOKENIZERS, **settings}).fit(make_places())


def whole(count: int = 24):
    places = make_places()
    return collate([places[i] for i in range(count)], [m.name for m in MODALITIES])


def one_hot(codes, size):
    return nn.functional.one_hot(codes.clamp_min(0), size).float()


@pytest.mark.parametrize("kind", list(SERIES))
def test_series_survive(kind):
    whole_tokenizer = fitted(weather={"kind": kind, **CALENDAR, **SERIES[kind]})
    tokens, values = whole_tokenizer.encode(whole()), whole_tokenizer.values(whole(), "weather")
    codes = tokens.of("weather")
    assert values.shape == (24, 2, 18)
    assert tokens.observed.all()
    assert int(codes.max()) < tokens.layout.vocabulary["weather"]
    decoded = whole_tokenizer.decode("weather", codes)
    assert decoded.shape == values.shape
    spread = values.std((0, 2))
    error = (decoded - values).square().mean((0, 2)).sqrt() / spread
    # Mu-law bins are coarse far from zero, and a symbol stands for two values here.
    limit = {"mu-law": 0.25, "sax": 0.25, "patch-vq": 0.5, "patch-fsq": 0.5}.get(kind, 0.12)
    assert (error < limit).all(), error
    expected = whole_tokenizer.expected("weather", one_hot(codes, tokens.layout.vocabulary["weather"]))
    torch.testing.assert_close(expected, decoded, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", list(IMAGES))
def test_images_survive(kind):
    whole_tokenizer = fitted(photo={"kind": kind, **IMAGES[kind]})
    tokens, values = whole_tokenizer.encode(whole()), whole_tokenizer.values(whole(), "photo")
    assert values.shape == {"bins": (24, 2, 2, 2), "scalar": (24, 2)}.get(kind, (24, 2, 8, 8))
    codes = tokens.of("photo")
    assert codes.shape[1] == {"bins": 8, "scalar": 2}.get(kind, 4)
    decoded = whole_tokenizer.decode("photo", codes)
    error = (decoded - values).square().mean().sqrt() / values.std()
    assert error < (0.02 if kind in ("bins", "scalar") else 0.5)
    expected = whole_tokenizer.expected("photo", one_hot(codes, tokens.layout.vocabulary["photo"]))
    torch.testing.assert_close(expected, decoded, rtol=1e-4, atol=1e-3)


def test_an_expectation_lies_between_what_it_is_of():
    whole_tokenizer = fitted()
    codes = whole_tokenizer.encode(whole(2)).of("weather")
    both = one_hot(codes, 32).mean(0, keepdim=True)
    mean = whole_tokenizer.decode("weather", codes).mean(0, keepdim=True)
    torch.testing.assert_close(whole_tokenizer.expected("weather", both), mean)


@pytest.mark.parametrize("kind", list(SERIES))
def test_missing_dates_and_series_have_no_code(kind):
    whole_tokenizer = fitted(weather={"kind": kind, **CALENDAR, **SERIES[kind]})
    batch = whole(3)
    batch.valid["weather"][0, :6] = False
    batch.valid["weather"][1] = False
    batch.values["weather"][1] = 1e6  # must not be looked at
    tokens = whole_tokenizer.encode(batch)
    seen = tokens.observed[:, tokens.layout.slices["weather"]]
    assert not seen[1].any()
    assert seen[2].all()
    values, decoded = whole_tokenizer.values(batch, "weather"), whole_tokenizer.decode("weather", tokens.of("weather"))
    assert values[0, :, :6].isnan().all()
    assert decoded[0, :, :6].isnan().all()
    assert decoded[0, :, 6:].isfinite().all()
    assert decoded[1].isnan().all()


@pytest.mark.parametrize("kind", list(IMAGES))
def test_missing_images_have_no_code(kind):
    whole_tokenizer = fitted(photo={"kind": kind, **IMAGES[kind]})
    batch = whole(3)
    batch.valid["photo"][1] = False
    tokens = whole_tokenizer.encode(batch)
    seen = tokens.observed[:, tokens.layout.slices["photo"]]
    assert seen.all(1).tolist() == [True, False, True]
    assert not seen[1].any()
    decoded = whole_tokenizer.decode("photo", tokens.of("photo"))
    assert decoded[1].isnan().all()
    assert decoded[[0, 2]].isfinite().all()


def test_the_calendar_averages_and_does_not_mind_padding():
    whole_tokenizer, batch = fitted(), whole(2)
    values = whole_tokenizer.values(batch, "weather")  # intervals of 30 days, a value every 10
    expected = batch.values["weather"].mean((3, 4)).view(2, 6, 3, 2).mean(2).transpose(1, 2)
    torch.testing.assert_close(values, expected)
    pad = torch.zeros(2, 5, dtype=torch.int64)
    batch.values["weather"] = torch.cat([batch.values["weather"], torch.full((2, 5, 2, 2, 2), 7.0)], 1)
    batch.days["weather"] = torch.cat([batch.days["weather"], pad], 1)
    batch.valid["weather"] = torch.cat([batch.valid["weather"], pad.bool()], 1)
    torch.testing.assert_close(whole_tokenizer.values(batch, "weather"), values)


def test_fitting_depends_on_the_seed_and_nothing_else():
    first = fitted().state_dict()
    torch.rand(7)
    again = fitted().state_dict()
    other = tokenizer(**TOKENIZERS).fit(make_places(), seed=1).state_dict()
    for name, value in first.items():
        torch.testing.assert_close(value, again[name], rtol=0, atol=0, equal_nan=True)
    weights = "parts.photo.tokenizer.encoder.0.weight"
    assert not torch.equal(first[weights], other[weights])


def test_fitting_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    wanted = torch.rand(1)
    unfitted = tokenizer(**TOKENIZERS)
    torch.manual_seed(3)
    unfitted.fit(make_places())
    assert torch.equal(torch.rand(1), wanted)


def test_a_tokenizer_travels_as_a_state_dict():
    settings = {"weather": {"kind": "quantile", **CALENDAR, "bins": 64}}
    source = fitted(**settings)
    fresh = tokenizer(**{**TOKENIZERS, **settings})
    with pytest.raises(RuntimeError, match="the tokenizer of height, photo, weather is not fitted"):
        fresh.encode(whole(1))
    fresh.load_state_dict(source.state_dict())
    assert torch.equal(fresh.encode(whole()).codes, source.encode(whole()).codes)


def test_uniform_bins_reach_a_little_beyond_what_was_seen():
    edges = fitted(height={"kind": "bins", "bins": 32, "margin": 0.1}).parts["height"].quantizer.edges
    seen = fitted().values(whole(), "height")
    reach = float(seen.max() - seen.min())
    assert float(edges.min()) == pytest.approx(float(seen.min()) - 0.1 * reach, rel=1e-4)
    assert float(edges.max()) == pytest.approx(float(seen.max()) + 0.1 * reach, rel=1e-4)


class Brightness(nn.Module):
    """Somebody else's tokenizer: the mean of a patch in ten steps of 20."""

    codebook_size = 10

    def __init__(self, modality, step=20.0):
        super().__init__()
        self.shape, self.step = (modality.channels, modality.patch_size, modality.patch_size), step

    def encode(self, patches):
        return (patches.mean((1, 2, 3)) / self.step).long().clamp(0, 9)

    def decode(self, codes):
        return ((codes + 0.5) * self.step)[:, None, None, None].expand(-1, *self.shape)


def test_an_external_tokenizer_takes_part():
    from fusion.tokenizers import registry

    register_tokenizer("brightness", Brightness)
    try:
        whole_tokenizer = fitted(photo={"kind": "brightness", "step": 25.0})
        codes = whole_tokenizer.encode(whole()).of("photo")
        assert whole_tokenizer.layout.vocabulary["photo"] == 10
        error = whole_tokenizer.decode("photo", codes) - whole_tokenizer.values(whole(), "photo")
        assert float(error.abs().mean()) < 12.5
        with pytest.raises(ValueError, match="already known"):
            register_tokenizer("brightness", Brightness)
    finally:
        del registry._IMAGE["brightness"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"photo": {"kind": "jpeg"}}, "photo: no tokenizer 'jpeg' for an image; there are vq, fsq, textons"),
        ({"weather": {"kind": "vq"}}, "weather: no tokenizer 'vq' for a series; there are bins, quantile"),
        ({"weather": {"kind": "bins", "colour": 3}}, "weather: tokenizer 'bins': .*colour.*settings are bins, margin"),
        ({"weather": {"kind": "bins", "step": 0}}, "weather: tokenizer 'bins': calendar: step=0 days"),
        ({"weather": {"kind": "bins", "bins": 0}}, "weather: tokenizer 'bins': .*bins must be at least 1"),
        ({"radar": {"kind": "bins"}}, "tokenizers for radar, but the modalities are height, photo, weather"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(**settings)


def test_what_cannot_be_fitted_is_named(places):
    elsewhere = tokenizer(**{**TOKENIZERS, "weather": {"kind": "bins", "start": 400, "step": 30, "length": 6}})
    with pytest.raises(ValueError, match=r"weather \(temperature, rain\) has no value within its calendar, 6"):
        elsewhere.fit(places)
    with pytest.raises(ValueError, match="the data set has no photo, weather"):
        tokenizer(**TOKENIZERS).fit(places.with_modalities(["height"]))
    nothing = np.full((3, 2, 8, 8), np.nan, dtype=np.float32)
    height = np.ones((3, 1, 2, 2), dtype=np.float32)
    blind = ArrayTiles(MODALITIES[:2], {"height": height, "photo": nothing}, grid=GRID)
    config = TokenFusionConfig.preset("tiny", MODALITIES[:2], GRID)
    with pytest.raises(ValueError, match=r"photo has no value in 3 tiles, e\.g\. 0"):
        TileTokenizer(config).fit(blind)


def test_wrong_codes_and_values_are_named(fitted, batch):
    own = fitted.tokenizer
    with pytest.raises(ValueError, match=r"codes of height must be in -1..31 .*got 0..32"):
        own.decode("height", torch.tensor([[0, 1, 2, 32]]))
    with pytest.raises(ValueError, match=r"height has \(B, 4\) codes, not \(1, 3\)"):
        own.decode("height", torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"weather has probabilities \(B, 12, 32\)"):
        own.expected("weather", torch.rand(1, 12, 31))
    wrong = batch(2)
    wrong.values["photo"] = wrong.values["photo"][:, :, :6]
    with pytest.raises(ValueError, match=r"photo must be \(B, C, H, W\) with \(C, H, W\) = \(2, 8, 8\)"):
        own.encode(wrong)
    wrong = batch(2)
    wrong.values["radar"] = wrong.values["photo"]
    with pytest.raises(ValueError, match="unknown modality 'radar'; the model has height, photo, weather"):
        own.encode(wrong)
