"""Schedules, temperatures and draws of iterative decoding."""

from __future__ import annotations

import pytest
import torch

from fusion.token_fusion.decoding import codes_at, probabilities, schedule, temperatures, top_p_filter


@pytest.fixture
def reference(golden):
    return golden("quantize_and_context")["terramind"]["decoding_schedules"]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_schedules_are_those_of_the_reference(reference, kind):
    cases = {name: entry for name, entry in reference.items() if name.startswith("steps")}
    assert len(cases) == 6
    for name, entry in cases.items():
        steps, tokens = (int("".join(filter(str.isdigit, part))) for part in name.split("_"))
        assert schedule(tokens, steps, kind) == entry[kind], name


def test_temperatures_are_those_of_the_reference(reference):
    onex = temperatures(schedule(196, 10, "linear"), 6.0, "onex", lowest=0.5, power=0.5)
    assert onex == pytest.approx(reference["onex_temp"]["values"], abs=1e-6)
    linear = temperatures(schedule(196, 8, "cosine"), 2.0, "linear")
    assert linear == pytest.approx(reference["linear_temp"]["values"], abs=1e-6)
    assert temperatures([3, 0, 2], 0.7) == [0.7] * 3


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_every_schedule_fixes_each_token_once(kind):
    for tokens in range(0, 60):
        for steps in (1, 2, 3, 7, 40, 100):
            sizes = schedule(tokens, steps, kind)
            assert len(sizes) == steps
            assert sum(sizes) == tokens
            assert min(sizes) >= 0  # rounding up in the middle must not leave a negative rest (41 tokens, 100 steps)


@pytest.mark.parametrize("sizes", [[5], [0, 0], [1] * 200, [0, 3]])
@pytest.mark.parametrize("kind", ["constant", "linear", "onex"])
def test_temperatures_stay_between_their_limits(sizes, kind):
    heat = temperatures(sizes, 3.0, kind)
    assert len(heat) == len(sizes)
    assert all(0 <= t <= 3 for t in heat)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: schedule(4, 0), "at least one step"),
        (lambda: schedule(-1, 2), "no negative number"),
        (lambda: schedule(4, 2, "sine"), "cosine, linear"),
        (lambda: temperatures([2], -1.0), "0 or more"),
        (lambda: temperatures([2], 1.0, "warm"), "constant, linear, onex"),
        (lambda: temperatures([2], 0.1, "onex"), "lowest"),
        (lambda: top_p_filter(torch.ones(2), 0.0), "above 0"),
    ],
)
def test_settings_out_of_range_are_named(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def test_top_p_keeps_the_fewest_likely_codes():
    p = torch.tensor([[0.1, 0.5, 0.15, 0.25], [0.25, 0.25, 0.25, 0.25]])
    kept = top_p_filter(p, 0.7)
    assert torch.allclose(kept[0], torch.tensor([0, 2 / 3, 0, 1 / 3]))
    assert kept[1].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])  # of equals the lower codes
    assert top_p_filter(p, 1e-9)[0].tolist() == [0, 1, 0, 0]
    assert top_p_filter(p, 1.0) is p


def test_temperature_flattens_and_zero_takes_the_likeliest():
    logits = torch.tensor([1.0, 3.0, 2.0, -torch.inf]).expand(3, 4)
    p = probabilities(logits, torch.tensor([0.0, 1.0, 100.0]))
    assert p[0].tolist() == [0, 1, 0, 0]
    assert torch.allclose(p[1], torch.softmax(logits[1].double(), -1))
    assert p[2, :3].tolist() == pytest.approx([1 / 3] * 3, abs=0.01)
    assert (p[:, 3] == 0).all()


def test_levels_give_codes_as_often_as_they_are_likely():
    p = torch.tensor([0.0, 0.3, 0.0, 0.6, 0.1, 0.0], dtype=torch.float64)
    levels = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    codes = codes_at(p.expand(1000, 6), levels)
    assert torch.bincount(codes, minlength=6).tolist() == [0, 300, 0, 600, 100, 0]
    extremes = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert codes_at(p.expand(2, 6), extremes).tolist() == [1, 4]
