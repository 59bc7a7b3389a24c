"""Gradient sensitivity: that it is the gradient, and that its shares are those of what matters."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from fusion.token_fusion import TokenFusion, TokenFusionConfig
from fusion.token_fusion.counterfactual import hide, take
from fusion.token_fusion.sensitivity import head, sensitivity
from fusion.training.finetuning import Finetuning

from .known_places import MODALITIES, batch, fitted, places, trained


def shares(found):
    bands = [share for by_band in found.band.values() for share in by_band.values()]
    dates = [share for _, by_date in found.date.values() for share in by_date]
    return list(found.modality.values()), bands, dates


def test_shares_add_up_and_tell_what_was_seen():
    found = sensitivity(fitted(), batch(5), "relief", measure="gradient")
    assert all(sum(group) == pytest.approx(1) for group in shares(found))
    assert set(found.modality) == {"photo", "noise", "temperature"}
    assert set(found.band["photo"]) == {"red", "green"}
    days, by_date = found.date["temperature"]
    assert days.tolist() == list(range(10, 360, 20))
    assert by_date.shape == (18,)
    assert np.isnan(found.token[fitted().tokenizer.layout.slices["relief"]]).all()
    assert found.places == 5


@pytest.mark.parametrize("measure", ["gradient", "gradient-x-input"])
def test_it_is_the_gradient_of_the_expected_mean(measure):
    torch.manual_seed(1)
    model, tiles = copy.deepcopy(fitted()).double(), batch(1)
    tokens = model.tokenize(tiles)
    visible = tokens.observed.clone()
    part = tokens.layout.slices["temperature"]
    visible[:, part] = False
    embedded = model.embed(tokens, visible).detach()

    def answer(e):
        chances = torch.softmax(model.logits(model.run(e, visible)[:, part], "temperature").float(), -1)
        return model.tokenizer.expected("temperature", chances.double()).mean()

    token = tokens.layout.slices["relief"].start
    slopes = []
    with torch.no_grad():
        for d in range(embedded.shape[-1]):
            step = torch.zeros_like(embedded)
            step[0, token, d] = 1e-2
            slopes.append((answer(embedded + step) - answer(embedded - step)) / 2e-2)
    slope = torch.stack(slopes)
    expected = slope.norm() if measure == "gradient" else (slope * embedded[0, token]).sum().abs()
    found = sensitivity(model, tiles, "temperature", measure=measure)
    assert found.token[token] == pytest.approx(float(expected), rel=2e-2)  # chances are float32


def test_batches_are_averaged():
    model, tiles = fitted(), batch(6)
    whole = sensitivity(model, tiles, "temperature")
    parts = sensitivity(model, (take(tiles, rows) for rows in ([0, 1], [2], [3, 4, 5])), "temperature")
    assert parts.places == 6
    assert np.allclose(whole.token, parts.token, rtol=1e-4, equal_nan=True)


def test_tokens_that_are_missing_somewhere_are_averaged_where_they_are():
    model, tiles = fitted(), batch(2)
    half = copy.copy(tiles)
    half.valid = tiles.valid | {"photo": torch.tensor([True, False])}
    found = sensitivity(model, half, "temperature", conditioning=["relief", "photo"])
    alone = sensitivity(model, take(tiles, [0]), "temperature", conditioning=["relief", "photo"])
    part = model.tokenizer.layout.slices["photo"]
    assert np.allclose(found.token[part], alone.token[part], rtol=1e-4)


def test_what_is_asked_for_is_not_what_is_seen():
    model, tiles = fitted(), hide(batch(3), ["temperature"], days=(120, 400))
    found = sensitivity(model, tiles, "temperature", conditioning=["relief", "temperature"])
    parts = model.tokenizer.layout.slices
    seen = found.token[parts["temperature"]]
    assert np.isfinite(seen).tolist() == [True] * 6 + [False] * 12
    ratio = np.nanmean(seen) / np.nanmean(found.token[parts["relief"]])
    assert found.modality["temperature"] / found.modality["relief"] == pytest.approx(ratio)
    assert found.date["temperature"][0].tolist() == [10, 30, 50, 70, 90, 110]


def test_a_group_weighs_as_its_tokens_together_or_as_their_mean():
    model, tiles = fitted(), batch(4)
    mean, whole = (sensitivity(model, tiles, "relief", per=per) for per in ("token", "group"))
    count = {name: part.stop - part.start for name, part in model.tokenizer.layout.slices.items()}
    weight = {name: share * count[name] for name, share in mean.modality.items()}
    expected = {name: own / sum(weight.values()) for name, own in weight.items()}
    assert whole.modality == pytest.approx(expected)
    assert sum(whole.band["photo"].values()) == pytest.approx(whole.modality["photo"])  # parts of the whole
    by_date = dict(zip(*whole.date["temperature"], strict=True))
    assert by_date == pytest.approx(dict(zip(*mean.date["temperature"], strict=True)))  # one token a date


def test_what_matters_has_the_larger_share():
    found = sensitivity(trained(), batch(40, first=150), "temperature")
    assert found.modality["relief"] > 4 * found.modality["noise"]
    assert found.band["photo"]["green"] > 1.5 * found.band["photo"]["red"]


def test_the_head_of_a_finetuned_model_is_an_answer():
    torch.manual_seed(0)
    module = Finetuning(fitted(), "regression", ["elevation"], target_mean=[500.0], target_std=[250.0])
    conditioning = ["relief", "photo"]
    found = sensitivity(module.model, batch(3), head(module), conditioning=conditioning)
    assert set(found.modality) == set(conditioning)
    assert sum(found.modality.values()) == pytest.approx(1)
    answer = head(module)
    tokens = module.model.tokenize(batch(3))
    with torch.no_grad():
        hidden = module.model.hidden(tokens, tokens.observed)
        assert torch.allclose(answer(hidden, tokens.observed) * 250 + 500, module(batch(3)), atol=1e-3)


def test_tokens_of_scales_and_of_all_bands_are_called_so():
    tokenizers = {
        "relief": {"kind": "scalar", "bins": 8},
        "photo": {"kind": "vq", "codebook_size": 8, "dim": 4, "hidden": 8, "steps": 3},
        "noise": {"kind": "scalar", "bins": 8},
        "temperature": {"kind": "sax", "segments": 6, "alphabet": 4, "step": 20, "length": 18},
    }
    model = TokenFusion(TokenFusionConfig(MODALITIES, (2, 2), tokenizers, dim=16, depth=1, heads=2, mlp_dim=16))
    model.tokenizer.fit(places())
    found = sensitivity(model, batch(3), "relief")
    assert set(found.band["photo"]) == {"all bands"}
    assert set(found.band["temperature"]) == {"mean", "level", "spread"}
    assert len(found.date["temperature"][0]) == 6
    image = sensitivity(model, batch(3), "photo")  # the expected image can be asked, too
    assert sum(image.modality.values()) == pytest.approx(1)


def test_weights_get_no_gradient_and_the_mode_stays():
    model = copy.deepcopy(fitted()).train()
    sensitivity(model, batch(2), "temperature")
    assert model.training
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: sensitivity(fitted(), batch(2), "snow"), "targets: no modality snow"),
        (lambda: sensitivity(fitted(), batch(2), "photo", measure="guess"), "'gradient' or 'gradient-x-input'"),
        (lambda: sensitivity(fitted(), batch(2), "photo", per="patch"), "'token' or 'group'"),
        (lambda: sensitivity(fitted(), [], "photo"), "no place was given"),
        (lambda: sensitivity(fitted(), hide(batch(2), ["relief"]), "photo", conditioning=["relief"]), "2 of 2 places"),
        (lambda: sensitivity(fitted(), batch(2), "photo", conditioning=["relief", "photo"]), "wholly given"),
    ],
)
def test_what_cannot_be_asked_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_a_model_of_another_kind_is_refused():
    module = Finetuning(fitted(), "regression", ["elevation"])
    with pytest.raises(TypeError, match=r"this is Finetuning; give its \.model"):
        sensitivity(module, batch(2), "photo")
