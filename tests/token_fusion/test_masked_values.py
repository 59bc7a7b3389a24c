"""The objective of two views: what it draws, what it scores, and that it learns where the codes alone tell nothing."""

import numpy as np
import pytest
import torch

from fusion.data import ArrayTiles, Modality
from fusion.kernels import patch_info_nce
from fusion.token_fusion import MaskedPrediction, MaskedValues, TokenFusion, TokenFusionConfig, TokenFusionPretraining
from fusion.token_fusion.in_memory import Recipe, learn, tokenize
from fusion.token_fusion.views import draw_views
from fusion.training import fit


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def series_tiles(count=32, dates=8, bands=("level",), seed=0):
    """Single pixels of one sensor, each a wave of an amplitude of its own."""
    rng = np.random.default_rng(seed)
    amplitude = rng.uniform(-1, 1, (count, 1, len(bands)))
    values = amplitude * np.sin(np.arange(dates) * 2 * np.pi / dates)[None, :, None] + 3
    sensor = Modality("sensor", "series", tuple(bands), 10.0, 1, "1", mean=(3.0,) * len(bands), std=(0.5,) * len(bands))
    return ArrayTiles([sensor], {"sensor": values.astype(np.float32)}, {"sensor": np.arange(dates) * 30})


SENSOR = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16} | {
    "tokenizers": {"sensor": {"kind": "bins", "bins": 32, "start": 0, "step": 30, "length": 8}}
}


@pytest.mark.parametrize("whole", [0.0, 1.0])
def test_every_observed_token_is_in_one_of_two_views_and_both_have_some(fitted, batch, whole):
    some = batch(16)
    some.valid["photo"][::2] = False
    some.valid["weather"][1::4, :9] = False
    tokens = fitted.tokenize(some)
    layout = tokens.layout
    for seed in range(20):
        first, second = draw_views(tokens, whole, generator=generator(seed))
        assert not (first & second).any()
        assert torch.equal(first | second, tokens.observed)
        assert first.any(1).all()
        assert second.any(1).all()
        if whole:  # no modality is in both
            for part in layout.slices.values():
                assert not (first[:, part].any(1) & second[:, part].any(1)).any()
        else:  # nor any date, whatever the band
            dated = layout.time.isfinite()
            for day in layout.time[dated].unique():
                at = layout.time == day
                assert not (first[:, at].any(1) & second[:, at].any(1)).any()


def test_half_of_the_cuts_between_dates_are_spans():
    tiles = series_tiles(256)
    torch.manual_seed(0)
    model = TokenFusion(TokenFusionConfig.preset("tiny", tiles.modalities, (1, 1), **SENSOR))
    model.tokenizer.fit(tiles)
    first, _ = draw_views(tokenize(model, tiles), 0.0, generator=generator())
    turns = (first != first.roll(1, 1)).sum(1)  # of a span on a circle: where it begins and where it ends
    assert float((turns == 2).float().mean()) == pytest.approx(0.5 + 0.5 * 0.3, abs=0.15)
    counts = first.sum(1)
    assert set(counts.tolist()) <= set(range(1, 8))
    assert float(counts.float().mean()) == pytest.approx(4, abs=0.3)


def test_one_token_a_tile_leaves_nothing_to_hide():
    tiles = series_tiles(4, dates=1)
    settings = SENSOR | {"tokenizers": {"sensor": {"kind": "bins", "start": 0, "step": 30, "length": 1}}}
    config = TokenFusionConfig.preset("tiny", tiles.modalities, (1, 1), **settings)
    with pytest.raises(ValueError, match=r"a tile is one token \(sensor\), so nothing can be hidden or compared"):
        TokenFusionPretraining(config, objective="masked-values")


def test_the_loss_is_the_mean_error_of_codes_and_values_and_the_contrast(fitted, batch):
    tokens = fitted.tokenize(batch(5))
    first, second = draw_views(tokens, 0.5, generator=generator(1))
    torch.manual_seed(1)
    objective = MaskedValues(tokens.layout, 16, code_weight=2.0, value_weight=0.5, contrastive_weight=0.25, spread=0)
    errors, summaries = [], []
    for given, asked in ((first, second), (second, first)):
        states = fitted.hidden(tokens, given)
        summaries.append(fitted.summarise(states, given).summary)
        for name, part in tokens.layout.slices.items():
            at, codes = asked[:, part], tokens.of(name)
            logits = fitted.logits(states[:, part], name)
            cross = torch.nn.functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
            error = 2 * cross.view_as(codes)
            if name != "photo":  # the codes of the photo have no value
                guess = objective.values[name](states[:, part])
                channel = tokens.layout.channel[part]
                wanted = fitted.tokenizer.part(name).code_values()[channel, codes]
                own = guess.gather(2, channel[None, :, None].expand(len(codes), -1, 1))[..., 0]
                error = error + 0.5 * (own - wanted).square()
            errors.append(error[at])
    contrast = patch_info_nce(torch.stack(summaries)[:, :, None], exclude="self")
    found = objective.score(fitted, tokens, first, second)
    torch.testing.assert_close(found.total, torch.cat(errors).mean() + 0.25 * contrast, rtol=1e-4, atol=1e-5)
    assert sum(found.counts.values()) == int(tokens.observed.sum())


def test_values_of_codes_are_standardised_centres_of_bins(fitted):
    part = fitted.tokenizer.part("height")
    torch.testing.assert_close(
        part.code_values() * 150 + 500, part.quantizer.code_values().float(), rtol=1e-4, atol=1e-2
    )
    photo = fitted.tokenizer.part("photo").code_values()
    assert photo.shape == (1, 16)
    torch.testing.assert_close(photo.square().mean().sqrt(), torch.tensor(1.0), rtol=0.01, atol=0)


def test_one_pixel_of_one_sensor_trains_and_dates_that_were_hidden_are_told(tmp_path):
    tiles, unseen = series_tiles(64), series_tiles(32, seed=1)
    recipe = Recipe(model=SENSOR, module={"objective": "masked-values"}, steps=100, batch_size=32, lr=1e-2)
    model = learn(tiles, recipe, 0)
    tokens = tokenize(model, unseen)
    later = torch.zeros(len(tokens), 8, dtype=torch.bool)
    later[:, :4] = True  # the first half of the wave is given, the other is its mirror
    probable = model.predict(tokens, later, "sensor").softmax(-1)
    guess = model.tokenizer.expected("sensor", probable)[:, 0, 4:].detach()
    truth = model.tokenizer.decode("sensor", tokens.of("sensor"))[:, 0, 4:]
    assert float((guess - truth).square().mean()) < 0.25 * float(truth.var())


def test_only_the_contrast_brings_two_views_of_a_tile_together():
    """Its loss is log(2 x 32 - 1) where views of one tile are no nearer each other than those of others."""
    tiles = series_tiles(32)
    loss = {}
    for name, module in {
        "contrast": {"objective": "masked-values", "code_weight": 0.0, "value_weight": 0.0},
        "codes": {"objective": "masked-codes"},
    }.items():
        model = learn(tiles, Recipe(model=SENSOR, module=module, steps=60, batch_size=32, lr=1e-2), 0)
        tokens = tokenize(model, tiles)
        views = draw_views(tokens, 0.0, generator=generator(5))
        with torch.no_grad():
            summary = torch.stack([model.summarise(model.hidden(tokens, view), view).summary for view in views])
        loss[name] = float(patch_info_nce(summary[:, :, None], exclude="self"))
    assert loss["contrast"] < 0.85 * np.log(63)
    assert loss["codes"] > 0.95 * np.log(63)


def test_settings_of_another_objective_are_refused_by_name(config):
    with pytest.raises(ValueError, match="objective is 'masked-codes' or 'masked-values', not 'codes'"):
        TokenFusionPretraining(config, objective="codes")
    with pytest.raises(ValueError, match="objective 'masked-codes' has no temperature; leave it out"):
        TokenFusionPretraining(config, temperature=0.2)
    with pytest.raises(ValueError, match=r"'masked-values' has no average; .* take objective 'masked-codes'"):
        TokenFusionPretraining(config, objective="masked-values", average="token")
    assert TokenFusionPretraining(config).objective == MaskedPrediction()
    with pytest.raises(ValueError, match="weights must not be negative"):
        TokenFusionPretraining(config, objective="masked-values", code_weight=-1.0)


def test_a_run_without_codes_validates(tmp_path):
    tiles = series_tiles(8)
    config = TokenFusionConfig.preset("tiny", tiles.modalities, (1, 1), **SENSOR)
    module = TokenFusionPretraining(config, objective="masked-values", code_weight=0.0)
    module.model.tokenizer.fit(tiles)
    fit(module, tiles, tiles, tmp_path, epochs=1, batch_size=8, progress=False, memory="ignore")
    last = (tmp_path / "metrics.csv").read_text()
    assert "val/sensor/loss" in last
    assert "accuracy" not in last
