"""Edits of tiles, the season of a profile, and counterfactuals whose direction is known."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch

from fusion.data import collate
from fusion.token_fusion.counterfactual import (
    add,
    assign,
    calendar,
    compare,
    counterfactual,
    edit_from,
    exchange,
    hide,
    hide_tokens,
    paste,
    season,
    shift_days,
    take,
)

from .known_places import MODALITIES, PHOTO, RELIEF, TEMPERATURE, batch, fitted, places, trained

YEAR = 365.25


def same(a, b, *, but=()):
    return all(
        torch.equal(getattr(a, part)[name], getattr(b, part)[name])
        for part in ("values", "days", "valid")
        for name in getattr(a, part)
        if name not in but
    )


def wave(days, mean, amplitude, phase, period=YEAR):
    return mean + amplitude * np.cos(2 * np.pi * (np.asarray(days) - phase) / period)


# Edits.


@pytest.mark.parametrize(
    ("edit", "touched"),
    [
        (partial(exchange, names=["photo", "relief"]), ("photo", "relief")),
        (partial(add, modality=RELIEF, amounts={"elevation": 50.0}), ("relief",)),
        (partial(assign, modality=PHOTO, levels={"green": 0.0}, patches=[3]), ("photo",)),
        (partial(paste, modality=PHOTO, patches=[0]), ("photo",)),
        (partial(hide, names=["noise"]), ("noise",)),
        (partial(shift_days, name="temperature", days=90), ("temperature",)),
    ],
)
def test_an_edit_changes_what_it_says_and_leaves_the_original_alone(edit, touched):
    tiles = batch(4)
    before = copy.deepcopy(tiles)
    edited = edit(tiles)
    assert same(tiles, before)
    assert same(tiles, edited, but=touched)
    assert all(not same(tiles, edited, but=[n for n in tiles.values if n != name]) for name in touched)
    assert edited.names == tiles.names


def test_exchange_takes_the_next_tile_or_the_one_asked_for():
    tiles, others = batch(3), batch(2, first=10)
    assert torch.equal(exchange(tiles, ["relief"]).values["relief"], tiles.values["relief"][[1, 2, 0]])
    assert torch.equal(exchange(tiles, ["relief"], order=[2, 2, 0]).values["relief"], tiles.values["relief"][[2, 2, 0]])
    foreign = exchange(tiles, ["temperature"], source=others)
    assert torch.equal(foreign.values["temperature"], others.values["temperature"][[1, 0, 1]])
    assert torch.equal(foreign.values["relief"], tiles.values["relief"])


def test_bands_change_in_the_patches_named():
    tiles = batch(2)
    raised = add(tiles, PHOTO, {"green": 5.0}, patches=[1]).values["photo"] - tiles.values["photo"]
    expected = torch.zeros_like(raised)
    expected[:, 1, :2, 2:] = 5.0
    assert torch.allclose(raised, expected, atol=1e-4)
    series = assign(tiles, TEMPERATURE, {"mean": -3.0}, patches=[2]).values["temperature"]
    assert (series[:, :, 0, 1, 0] == -3).all()
    assert torch.equal(series[:, :, 0, 0], tiles.values["temperature"][:, :, 0, 0])


def test_what_is_not_observed_stays_so():
    tiles = hide(batch(2), ["relief"])
    assert (add(tiles, RELIEF, {"elevation": 7.0}).values["relief"] == tiles.values["relief"]).all()
    pasted = paste(hide(batch(2), ["photo"]), PHOTO, [0], source=batch(2, first=5))
    assert torch.equal(pasted.values["photo"], batch(2).values["photo"])


def test_patches_of_another_place_are_pasted_where_they_were():
    tiles = batch(3)
    pasted = paste(tiles, PHOTO, [0, 3]).values["photo"]
    other = tiles.values["photo"][[1, 2, 0]]
    assert torch.equal(pasted[:, :, :2, :2], other[:, :, :2, :2])
    assert torch.equal(pasted[:, :, 2:, 2:], other[:, :, 2:, 2:])
    assert torch.equal(pasted[:, :, :2, 2:], tiles.values["photo"][:, :, :2, 2:])


def test_seasons_move_and_come_back_at_the_start_of_the_year():
    tiles = hide(batch(2), ["temperature"], days=(0, 60))
    moved = shift_days(tiles, "temperature", 100, period=365)
    valid = moved.valid["temperature"]
    days = [moved.days["temperature"][b][valid[b]] for b in range(2)]
    assert valid.sum(1).tolist() == [59, 59]
    assert all(bool((d.diff() > 0).all()) for d in days)  # sorted again
    assert (days[0][0], days[0][-1]) == (0, 360)
    late = tiles.values["temperature"][0, tiles.days["temperature"][0] == 355]
    assert torch.equal(moved.values["temperature"][0, moved.days["temperature"][0] == 90], late)
    beyond = shift_days(tiles, "temperature", 100, period=None)
    assert int(beyond.days["temperature"].max()) == 455


def test_hidden_tokens_are_those_named():
    tokens = fitted().tokenize(batch(2))
    layout = tokens.layout
    hidden = hide_tokens(tokens, "photo", patches=[1, 2], channels=[0])
    gone = (tokens.codes >= 0) & (hidden.codes < 0)
    assert gone.sum(1).tolist() == [2, 2]
    assert layout.position[gone[0]].tolist() == [2, 3]
    assert layout.channel[gone[0]].tolist() == [0, 0]
    winter = hide_tokens(tokens, "temperature", days=(0, 100))
    assert ((tokens.codes >= 0) & (winter.codes < 0)).sum(1).tolist() == [5, 5]


def test_edits_from_settings_are_made_in_order():
    tiles = batch(3)
    settings = {"exchange": ["relief"], "add": {"relief": {"elevation": 10}}, "shift_days": {"temperature": 30}}
    made = edit_from(settings, MODALITIES)(tiles)
    expected = shift_days(add(exchange(tiles, ["relief"]), RELIEF, {"elevation": 10.0}), "temperature", 30)
    assert same(made, expected)
    local = edit_from({"assign": {"photo": {"red": 1}}, "patches": [0], "hide": "noise"}, MODALITIES)(tiles)
    assert same(local, hide(assign(tiles, PHOTO, {"red": 1.0}, patches=[0]), ["noise"]))


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda t: exchange(t, ["snow"]), "no modality snow to edit; they have relief, photo"),
        (lambda t: exchange(t, ["photo"], order=[0]), "1 entries for 3 tiles"),
        (lambda t: exchange(t, ["photo"], order=[0, 1, 3]), r"tiles 0 to 2 can be taken, not \[0, 1, 3\]"),
        (lambda t: add(t, PHOTO, {"blue": 1.0}), "'photo' has no band blue"),
        (lambda t: add(t, PHOTO, {"red": 1.0}, patches=[4]), r"patches 0 to 3 \(2 x 2\), not \[4\]"),
        (lambda t: paste(t, TEMPERATURE, [0]), "is a series; its dates differ"),
        (lambda t: hide(t, ["photo"], days=(0, 1)), "is an image and has no days"),
        (lambda t: shift_days(t, "photo", 3), "is an image and has no days"),
        (lambda t: take(t, []), "can be taken"),
        (lambda t: edit_from({}, MODALITIES), "nothing is no edit; there are exchange, hide, add"),
        (lambda t: edit_from({"melt": {}}, MODALITIES), "melt is no edit"),
        (lambda t: edit_from({"add": {"snow": {}}}, MODALITIES), "no modality snow; there are relief"),
        (lambda t: edit_from({"add": ["photo"]}, MODALITIES), "add wants a mapping"),
        (lambda t: hide_tokens(fitted().tokenize(t), "photo", patches=[9]), "has no token with"),
    ],
)
def test_what_cannot_be_edited_is_told(call, told):
    with pytest.raises(ValueError, match=told):
        call(batch(3))


# Seasons.


@pytest.mark.parametrize(
    "days",
    [
        np.arange(0, 365, 5),
        np.sort(np.random.default_rng(0).uniform(0, 730, 40)),
        np.arange(60, 230, 10),  # less than half a year
    ],
    ids=["year", "irregular", "summer"],
)
def test_a_wave_is_found_on_any_calendar(days):
    profiles = np.stack([wave(days, 280.0, 8.0, 200.0), wave(days, -5.0, 0.5, 10.0)])
    profiles[0, 3:6] = np.nan
    found = season(profiles, days)
    assert found.amplitude == pytest.approx([8.0, 0.5], rel=1e-6)
    assert found.phase == pytest.approx([200.0, 10.0], abs=1e-4)
    assert found.mean == pytest.approx(np.nanmean(profiles, axis=1))


def test_float32_tensors_of_any_shape_are_profiles():
    days = np.arange(0, 365, 5)
    profiles = torch.tensor(np.broadcast_to(wave(days, 280.0, 8.0, 200.0), (2, 3, 73)), dtype=torch.float32)
    found = season(profiles, days)
    assert found.phase.shape == (2, 3)
    assert np.allclose(found.phase, 200, atol=1e-3)


def test_what_is_not_determined_is_not_told():
    days = np.arange(0, 365, 5)
    few, short, nothing = (np.full(73, np.nan) for _ in range(3))
    few[[0, 30, 60]], short[:20] = 1.0, wave(days[:20], 5, 1, 30)
    found = season(np.stack([few, short, nothing, np.full(73, 4.0)]), days)
    assert np.isnan(found.amplitude).tolist() == [True, True, True, False]
    assert np.isnan(found.phase).all()  # a constant has no crest
    assert found.mean[[0, 3]].tolist() == [1.0, 4.0]
    assert np.isnan(found.mean[2])


def test_days_at_few_phases_of_the_year_determine_nothing():
    twice_a_year = np.arange(6) * YEAR / 2
    assert np.isnan(season(wave(twice_a_year, 5, 3, 100), twice_a_year).amplitude)
    thrice = np.arange(6) * YEAR / 3
    assert season(wave(thrice, 5, 3, 100), thrice).amplitude == pytest.approx(3)


def test_phases_move_the_short_way_round_the_year():
    days = np.arange(0, 365, 5)
    before, after = wave(days, 10, 4, 360), wave(days, 12, 3, 5)
    change = compare(before[None], after[None], days)
    assert (change.mean[0], change.amplitude[0], change.phase[0]) == pytest.approx((2, -1, 10.25), abs=0.2)
    assert change.amplitude[0] == pytest.approx(-1, abs=1e-9)
    assert change.phase[0] == pytest.approx(10.25, abs=1e-6)
    told = compare(np.stack([before, after]), np.stack([after, before]), days).summary()
    assert told["amplitude"]["mean"] == pytest.approx(0, abs=1e-9)
    assert told["phase"]["rising"] == 0.5


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: season(np.zeros((2, 5)), np.arange(4)), r"profile \(2, 5\) must end in the \(4,\) days"),
        (lambda: compare(np.zeros(4), np.zeros((2, 4)), np.arange(4)), "must have the same shape"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()


# The model.


def test_what_is_known_of_the_world_is_what_the_model_says():
    data = places().split("test")
    tiles = collate([data[i] for i in range(len(data))], [m.name for m in MODALITIES])
    model = trained()
    assert calendar(model, "temperature")[:2].tolist() == [10, 30]  # the middle of the intervals
    low = [i for i in range(len(tiles)) if tiles.values["relief"][i].mean() < 700]
    raised = counterfactual(
        model, take(tiles, low), partial(add, modality=RELIEF, amounts={"elevation": 250.0}), "temperature"
    )
    assert raised.before.shape == (len(low), 1, 18)
    assert (raised.change.mean < 0).mean() > 0.95
    assert raised.change.mean.mean() == pytest.approx(-2.5, abs=0.6)
    dark, green = (partial(assign, modality=PHOTO, levels={"green": level}) for level in (30.0, 220.0))
    greener = counterfactual(model, dark(tiles), green, "temperature", batch_size=20)
    assert (greener.change.amplitude < 0).mean() > 0.95
    assert np.abs(greener.change.phase).mean() < 10
    unmoved = counterfactual(model, tiles, lambda same: same, "temperature", samples=2, steps=2)
    assert (unmoved.change.mean == 0).all()


def test_chunks_do_not_matter():
    tiles, edit = batch(7), partial(exchange, names=["relief"])
    found = [counterfactual(fitted(), tiles, edit, "temperature", batch_size=size).after for size in (2, 7)]
    assert np.allclose(*found, atol=1e-4)


def test_counterfactuals_want_a_series_and_an_edit_that_keeps_the_places():
    with pytest.raises(ValueError, match="'photo' is an image"):
        counterfactual(fitted(), batch(2), lambda t: t, "photo")
    with pytest.raises(ValueError, match="made 1 places of 2"):
        counterfactual(fitted(), batch(2), lambda t: take(t, [0]), "temperature")
    with pytest.raises(ValueError, match="unknown modality 'snow'"):
        counterfactual(fitted(), batch(2), lambda t: t, "snow")
    with pytest.raises(TypeError, match="a TokenFusion is wanted"):
        counterfactual(torch.nn.Linear(1, 1), batch(2), lambda t: t, "temperature")
