"""What a head sees of a tile, where it starts, and that it answers as its members do on average."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from fusion.token_fusion.heads import Tuning, classify, regress, representation
from fusion.token_fusion.in_memory import tokenize
from fusion.token_fusion.pooling import TokenFeatures
from fusion.token_fusion.sensitivity import head, sensitivity
from fusion.training.closed_form import discriminant

DIM = 16


@pytest.fixture(scope="module")
def tokens(fitted, places):
    return tokenize(fitted, places)


@pytest.fixture(scope="module")
def target(places):
    return places.labels().numpy()[:, 0]


@pytest.mark.parametrize(
    ("pooled", "groups"),
    # height, photo and six means of 30 days from day 0 on, which lie in two seasons and in six months
    [("modalities", 3), ("seasons", 1 + 1 + 2), ("months", 1 + 1 + 6), ("dates", 1 + 1 + 6)],
)
def test_states_are_averaged_by_modality_and_part_of_the_year(fitted, tokens, pooled, groups):
    found = representation(fitted, tokens, pooled)
    assert found.shape == (len(tokens), groups * DIM)
    with torch.no_grad():
        states = fitted.hidden(tokens, tokens.observed)
    layout = tokens.layout
    photo, weather = layout.slices["photo"], layout.slices["weather"]
    by_group = found.reshape(len(tokens), groups, DIM)
    np.testing.assert_allclose(by_group[:, 1], states[:, photo].mean(1), rtol=0, atol=1e-5)
    first = {"modalities": 1e9, "seasons": 365.25 / 4}.get(pooled, 25)
    at = torch.arange(weather.start, weather.stop)[layout.time[weather] < first]
    assert len(at) == {"modalities": 12, "seasons": 6}.get(pooled, 2)
    np.testing.assert_allclose(by_group[:, 2], states[:, at].mean(1), rtol=0, atol=1e-5)


def test_the_summary_is_that_of_the_model(fitted, places, tokens, batch):
    with torch.no_grad():
        summary = fitted(batch(6)).summary
    np.testing.assert_allclose(representation(fitted, tokens)[:6], summary, rtol=0, atol=1e-5)


def test_what_a_part_of_the_year_lacks_is_the_mean_of_the_year_and_a_missing_modality_is_nan(fitted, tokens):
    weather = tokens.layout.slices["weather"]
    codes = tokens.codes.clone()
    late = tokens.layout.time[weather] > 100
    codes[0, weather] = codes[0, weather].masked_fill(late, -1)
    codes[1, weather] = -1
    some = type(tokens)(codes, tokens.layout)
    seasons = representation(fitted, some, "seasons").reshape(-1, 4, DIM)
    year = representation(fitted, some, "modalities").reshape(-1, 3, DIM)
    np.testing.assert_allclose(seasons[0, 3], year[0, 2], rtol=0, atol=1e-5)
    assert np.isnan(seasons[1, 2:]).all()
    assert np.isfinite(seasons[2:]).all()


def test_values_are_what_bins_stand_for(fitted, places, tokens):
    found = representation(fitted, tokens, "none", values=True)
    assert found.shape == (len(tokens), 4 + 2 * 6)  # patches of height, means of weather; codes of photos have none
    height = np.stack([places[i].values["height"].flatten().numpy() for i in range(len(places))])
    np.testing.assert_allclose(found[:, :4], (height - 500) / 150, rtol=0, atol=0.1)
    with pytest.raises(ValueError, match="neither states nor values of bins"):
        TokenFeatures(fitted, "none")
    with pytest.raises(ValueError, match=r"pooled is one of summary, .*, not 'weeks'"):
        TokenFeatures(fitted, "weeks")


@pytest.mark.parametrize("width", [5, 60])
def test_the_discriminant_is_that_of_scikit_learn(width):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3], [10, 20, 12])
    x = rng.normal(size=(42, width)) + 0.7 * rng.normal(size=(4, width))[labels]
    weight, bias = discriminant(x, labels, 4, 0.2)
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2).fit(x - x.mean(0), labels)
    new = rng.normal(size=(30, width))
    # scikit-learn standardises within classes before it shrinks, which is the same for inputs of equal deviations only
    agree = (np.argmax(new @ weight.T + bias, 1) == reference.predict(new - x.mean(0))).mean()
    assert agree > 0.9
    assert (np.argmax(new @ weight.T + bias, 1) != 2).all()  # of which there is no label


@pytest.mark.parametrize("values", [False, True])
def test_a_head_in_closed_form_answers_before_any_step(fitted, tokens, target, values):
    tuning = Tuning(steps=1, lr=1e-9, pooled="seasons", values=values, start="closed-form")
    few = torch.arange(16)
    error = regress(fitted, tokens.rows(few), target[:16], tuning).predict(tokens) - target
    assert (error[16:] ** 2).mean() < 0.2 * target.var()
    random = Tuning(steps=1, lr=1e-9, pooled="seasons", values=values)
    error = regress(fitted, tokens.rows(few), target[:16], random).predict(tokens) - target
    assert (error[16:] ** 2).mean() > 0.5 * target.var()
    classes = np.digitize(target, np.quantile(target, [1 / 3, 2 / 3]))
    guess = classify(fitted, tokens.rows(few), classes[:16], 3, tuning).predict(tokens)
    assert (guess[16:] == classes[16:]).mean() > 0.6


def test_a_head_that_is_adjusted_begins_without_the_shares_of_the_classes(fitted, tokens, target):
    classes = (target > np.quantile(target, 0.8)).astype(int)  # one in five
    log_odds = []
    for part in (0.0, 1.0):
        tuning = Tuning(steps=1, lr=0.0, pooled="months", start="closed-form", logit_adjustment=part)
        found = np.log(classify(fitted, tokens, classes, 2, tuning).probabilities(tokens))
        log_odds.append(found[:, 1] - found[:, 0])
    share = classes.mean()
    np.testing.assert_allclose(log_odds[1] - log_odds[0], np.log((1 - share) / share), atol=1e-3)
    with pytest.raises(ValueError, match="logit_adjustment is from 0 to 1, not -1"):
        Tuning(logit_adjustment=-1)


def test_the_loss_of_an_adjusted_head_counts_the_shares(fitted, tokens, target):
    """Labels that nothing tells apart are answered by their shares, or adjusted by halves."""
    classes = (np.arange(len(tokens)) % 4 == 0).astype(int)
    blank = type(tokens)(torch.full_like(tokens.codes, -1), tokens.layout)
    blank.codes[:, 0] = 0
    for part, wanted in ((0.0, 0.25), (1.0, 0.5)):
        tuning = Tuning(steps=150, lr=1e-2, weight_decay=0.0, logit_adjustment=part)
        share = classify(fitted, blank, classes, 2, tuning).probabilities(blank)[:, 1].mean()
        assert share == pytest.approx(wanted, abs=0.08)


def test_members_are_averaged_and_each_is_the_fine_tuning_of_its_seed(fitted, tokens, target):
    tuning = Tuning(steps=3, pooled="modalities", members=2, seed=4)
    both = regress(fitted, tokens, target, tuning).predict(tokens)
    alone = [
        regress(fitted, tokens, target, Tuning(steps=3, pooled="modalities", seed=seed)).predict(tokens)
        for seed in (4, 5)
    ]
    np.testing.assert_allclose(both, np.mean(alone, 0), rtol=1e-5)
    assert np.abs(alone[0] - alone[1]).max() > 1e-3
    classes = (target > np.median(target)).astype(np.int64)
    sure = classify(fitted, tokens, classes, 2, tuning).probabilities(tokens)
    np.testing.assert_allclose(sure.sum(1), 1, rtol=1e-5)


def test_steps_grow_with_the_labels():
    assert [Tuning(steps=None).steps_for(tiles) for tiles in (10, 640, 2000, 10**5)] == [200, 200, 625, 1500]
    assert Tuning(steps=7).steps_for(10**5) == 7
    with pytest.raises(ValueError, match="start is 'random' or 'closed-form', not 'warm'"):
        Tuning(start="warm")
    with pytest.raises(ValueError, match="members >= 1"):
        Tuning(members=0)


def test_sensitivity_is_of_what_the_head_sees(fitted, tokens, target, batch):
    """A head that sees the summary alone answers as the module of a head and a summary does."""
    for pooled in ("summary", "seasons"):
        tuned = regress(fitted, tokens, target, Tuning(steps=2, pooled=pooled))
        some = batch(6)
        own = tuned.model.tokenize(some)
        states = tuned.model.hidden(own, own.observed)
        answer = head(tuned)(states, own.observed)[:, 0]
        torch.testing.assert_close(answer, tuned(own), rtol=1e-4, atol=1e-5)
        shares = sensitivity(tuned.model, some, head(tuned))
        assert sum(shares.modality.values()) == pytest.approx(1)
