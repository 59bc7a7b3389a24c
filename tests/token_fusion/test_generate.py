"""Generation: what is kept, what is drawn, and what a draw depends on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from fusion.data import collate
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.token_fusion.counterfactual import hide, take
from fusion.token_fusion.generate import expect, generate, quantile

from .known_places import MODALITIES, PHOTO, batch, fitted, places, trained

SCHEMES = ("maskgit", "roar", "one-step")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_draw_depends_on_seed_and_place_alone(scheme):
    model, tiles = fitted(), batch(5)
    how = {"scheme": scheme, "steps": 3, "samples": 2}
    whole = generate(model, tiles, ["temperature"], seed=3, **how)
    again = generate(model, tiles, ["temperature"], seed=3, **how)
    assert torch.equal(whole.codes, again.codes)
    alone = [generate(model, take(tiles, [b]), ["temperature"], seed=3, **how).codes for b in (4, 2, 0)]
    assert torch.equal(torch.cat(alone, 1), whole.codes[:, [4, 2, 0]])
    assert not torch.equal(whole.codes[0], whole.codes[1])
    assert not torch.equal(whole.codes, generate(model, tiles, ["temperature"], seed=4, **how).codes)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_targets_are_drawn_conditions_are_kept_the_rest_is_hidden(scheme):
    model, tiles = fitted(), batch(4)
    tokens, slices = model.tokenize(tiles), model.tokenizer.layout.slices
    made = generate(
        model, tiles, ["photo"], conditioning=["temperature"], scheme=scheme, steps=4
    )  # an image from a series
    assert torch.equal(made.codes[0, :, slices["temperature"]], tokens.of("temperature"))
    assert (made.codes[0, :, slices["relief"]] == -1).all()
    assert (made.codes[..., slices["photo"]] >= 0).all()
    assert made.values["photo"].shape == (1, 4, 2, 2, 2)
    low, high = (edge(places()[i].values["photo"].numpy()) for i, edge in ((0, np.min), (0, np.max)))
    assert made.values["photo"].isfinite().all()
    assert made.values["photo"].min() > low - 50
    assert made.values["photo"].max() < high + 50


def test_what_is_not_given_is_not_seen():
    model, tiles = fitted(), batch(3)
    other = replace(tiles, values=tiles.values | {"temperature": tiles.values["temperature"] + 9})
    found = [generate(model, t, ["temperature"], conditioning=["relief"]).codes for t in (tiles, other)]
    assert torch.equal(*found)
    without = generate(model, tiles.select(["relief"]), ["temperature"], conditioning=["relief"])
    assert torch.equal(found[0], without.codes)


def test_what_is_observed_of_a_given_target_is_kept():
    model, tiles = fitted(), hide(batch(3), ["temperature"], days=(120, 400))
    part = model.tokenizer.layout.slices["temperature"]
    observed = model.tokenize(tiles).of("temperature")
    known = observed >= 0
    assert known.sum(1).tolist() == [6, 6, 6]
    made = generate(model, tiles, ["temperature"], conditioning=["relief", "temperature"], samples=3, steps=4)
    assert (made.codes[:, :, part] >= 0).all()
    assert torch.equal(made.codes[..., part][:, known], observed[known].expand(3, -1))
    expected = expect(model, tiles, "temperature", conditioning=["relief", "temperature"])[:, 0]
    kept = model.tokenizer.decode("temperature", observed)[:, 0]
    assert torch.allclose(expected[known], kept[known], atol=1e-5)


def test_places_may_miss_different_numbers_of_tokens():
    model, tiles = fitted(), batch(3)
    tokens = model.tokenize(tiles)
    part = tokens.layout.slices["temperature"]
    codes = tokens.codes.clone()
    codes[0, part] = torch.where(torch.arange(18) < 7, codes[0, part], -1)
    codes[1, part.start] = -1  # one; the third place misses none
    conditioning = ["relief", "temperature"]
    made = generate(model, replace(tokens, codes=codes), ["temperature"], conditioning=conditioning, steps=5)
    kept = codes[:, part] >= 0
    assert torch.equal(made.codes[0][:, part][kept], codes[:, part][kept])
    assert (made.codes[0][:, part] >= 0).all()


def test_each_target_joins_the_condition_of_the_next():
    model, tiles = fitted(), batch(4)
    both = generate(model, tiles, ["photo", "temperature"], conditioning=["relief"], steps=3, seed=5)
    first = generate(model, tiles, ["photo"], conditioning=["relief"], steps=3, seed=5)
    assert torch.equal(both.values["photo"], first.values["photo"])
    joined = replace(model.tokenize(tiles), codes=first.codes[0])
    second = generate(
        model, joined, ["temperature"], conditioning=["relief", "photo"], steps=3, seed=5, places=list(tiles.names)
    )
    assert torch.equal(both.codes[0], second.codes[0])


def test_zero_temperature_takes_the_likeliest_codes():
    model, tiles = fitted(), batch(3)
    made = generate(model, tiles, ["temperature"], scheme="one-step", temperature=0, samples=2)
    tokens = model.tokenize(tiles)
    visible = tokens.observed.clone()
    part = tokens.layout.slices["temperature"]
    visible[:, part] = False
    with torch.no_grad():
        likeliest = model.predict(tokens, visible, "temperature").argmax(-1)
    assert torch.equal(made.codes[0, :, part], likeliest)
    assert torch.equal(made.codes[0], made.codes[1])


def _steps(model, monkeypatch, **how):
    """What is visible before each step, and at the end."""
    seen, predict = [], model.predict

    def spy(tokens, visible, name):
        seen.append((visible.clone(), predict(tokens, visible, name)))
        return seen[-1][1]

    monkeypatch.setattr(model, "predict", spy, raising=True)
    generate(model, batch(2), ["temperature"], schedule="linear", steps=6, **how)
    return seen


def test_maskgit_fixes_the_surest_tokens_first(monkeypatch):
    model = fitted()
    part = model.tokenizer.layout.slices["temperature"]
    steps = _steps(model, monkeypatch, scheme="maskgit", temperature=0)
    assert len(steps) == 6
    for (before, logits), (after, _) in pairwise(steps):
        fixed, candidates = (after & ~before)[:, part], ~before[:, part]
        assert fixed.sum(1).tolist() == [3, 3]
        surest = torch.softmax(logits, -1).amax(-1)
        for b in range(2):
            assert surest[b, fixed[b]].min() >= surest[b, candidates[b] & ~fixed[b]].max()


def test_roar_fixes_tokens_in_an_order_of_the_place(monkeypatch):
    model = fitted()
    part = model.tokenizer.layout.slices["temperature"]
    visible = [before[:, part] for before, _ in _steps(model, monkeypatch, scheme="roar", seed=1)]
    assert [int(v.sum()) for v in visible] == [0, 6, 12, 18, 24, 30]
    assert all(bool((a <= b).all()) for a, b in pairwise(visible))
    assert not torch.equal(visible[2][0], visible[2][1])


def test_a_trained_model_generates_what_the_place_implies():
    model, data = trained(), places().split("test")
    tiles = collate([data[i] for i in range(len(data))], [m.name for m in MODALITIES])
    truth = model.tokenizer.values(tiles, "temperature")
    mean = model.tokenizer.values(batch(144), "temperature").mean(0)
    error = {"mean": (mean - truth).square().mean().sqrt()}
    error["expected"] = (expect(model, tiles, "temperature") - truth).square().mean().sqrt()
    made = generate(model, tiles, ["temperature"], samples=8, steps=4)
    error["median"] = (made.median("temperature") - truth).square().mean().sqrt()
    assert error["expected"] < 0.4 * error["mean"]
    assert error["median"] < 0.5 * error["mean"]
    low, high = made.band("temperature")
    assert 0.5 < ((truth >= low) & (truth <= high)).float().mean() < 0.99


def test_large_vocabularies_are_drawn_from_a_few_places_at_a_time(monkeypatch):
    whole = generate(fitted(), batch(5), ["temperature"], steps=3)
    monkeypatch.setattr("fusion.token_fusion.generate.CHUNK", 2 * 18 * 48)
    assert torch.equal(generate(fitted(), batch(5), ["temperature"], steps=3).codes, whole.codes)


def test_the_mode_of_the_model_is_left_as_it_was():
    model = fitted().train()
    generate(model, batch(2), ["photo"])
    expect(model, batch(2), "photo")
    assert model.training
    model.eval()


def test_quantiles_are_those_of_numpy():
    samples = torch.randn(7, 3, 5)
    for level in (0.0, 0.1, 0.5, 0.93, 1.0):
        assert np.allclose(quantile(samples, level), np.quantile(samples, level, axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"targets": ["snow"]}, "targets: no modality snow; the model has relief, photo, noise, temperature"),
        ({"targets": ["photo"], "conditioning": ["snow"]}, "conditioning: no modality snow"),
        ({"targets": []}, "no target"),
        ({"targets": ["photo", "photo"]}, "different modalities"),
        ({"targets": ["photo"], "conditioning": ["relief", "photo"]}, "photo is wholly given at all 2 places"),
        ({"targets": ["photo"], "conditioning": []}, "2 of 2 places, e.g. place 0, place 1, have nothing"),
        ({"targets": ["photo"], "scheme": "best"}, "'maskgit', 'roar' or 'one-step'"),
        ({"targets": ["photo"], "samples": 0}, "at least 1 sample"),
        ({"targets": ["photo"], "seed": -1}, "seed of at least 0"),
        ({"targets": ["photo"], "steps": 0}, "at least one step"),
        ({"targets": ["photo"], "top_p": 2.0}, "top_p"),
        ({"targets": ["photo"], "places": ["a"]}, "1 names of places for 2 places"),
    ],
)
def test_what_cannot_be_generated_is_told(settings, told):
    with pytest.raises(ValueError, match=told):
        generate(fitted(), batch(2), **settings)


def test_a_string_is_no_list_of_modalities():
    with pytest.raises(TypeError, match="a list of modalities, not the string 'photo'"):
        generate(fitted(), batch(2), "photo")


def test_a_place_of_which_nothing_is_given_is_named():
    tiles = batch(3)
    tiles = replace(tiles, valid=tiles.valid | {"relief": torch.tensor([True, False, True])})
    with pytest.raises(ValueError, match=r"1 of 3 places, e\.g\. place 1, have nothing of what is given \(relief\)"):
        generate(fitted(), tiles, ["temperature"], conditioning=["relief"])


def test_a_model_of_another_system_is_refused():
    config = OmniSatConfig.preset("tiny", (PHOTO,), (2, 2))
    with pytest.raises(TypeError, match="a TokenFusion is wanted, this is OmniSat"):
        generate(OmniSat(config), batch(2), ["photo"])
    with pytest.raises(TypeError, match="TokenFusion"):
        expect(torch.nn.Linear(2, 2), batch(2), "photo")
