"""Budgets, masks and the loss."""

import pytest
import torch

from fusion.token_fusion import MaskedPrediction
from fusion.token_fusion.objective import draw_budgets, draw_masks

AVAILABLE = torch.tensor([[4, 10, 40], [4, 0, 40], [0, 0, 7], [0, 0, 0], [1, 1, 1]]).repeat(200, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("whole", [0.0, 0.5, 1.0])
def test_budgets_never_exceed_what_there_is(whole):
    visible, targets = draw_budgets(AVAILABLE, (1, 30), (1, 30), whole=whole, generator=generator())
    assert visible.dtype == targets.dtype == torch.int64
    assert (visible >= 0).all()
    assert (targets >= 0).all()
    assert (visible + targets <= AVAILABLE).all()
    assert not (visible + targets)[AVAILABLE == 0].any()


def test_budgets_are_met_where_there_is_enough():
    plenty = torch.full((500, 3), 1000)
    visible, targets = draw_budgets(plenty, (5, 20), (7, 7), whole=0, generator=generator())
    total = visible.sum(1)
    assert set(total.tolist()) == set(range(5, 21))
    assert (targets.sum(1) == 7).all()


def test_alpha_says_how_unequal_the_shares_are():
    plenty = torch.full((400, 4), 1000)
    largest = {}
    for alpha in (0.01, 1.0, 1000.0):
        visible, _ = draw_budgets(plenty, (100, 100), (0, 0), (alpha,), 0, generator=generator())
        largest[alpha] = float(visible.max(1).values.float().mean())
    assert largest[0.01] > 95
    assert 45 < largest[1.0] < 60  # the largest of four uniform spacings: 25/48
    assert largest[1000.0] < 29
    shares = draw_budgets(plenty, (100, 100), (0, 0), (1.0,), 0, generator=generator())[0].float().mean(0)
    torch.testing.assert_close(shares, torch.full((4,), 25.0), rtol=0, atol=3)


def test_whole_modalities_are_hidden_and_all_others_shown():
    visible, targets = draw_budgets(AVAILABLE, (1, 30), (1, 30), whole=1.0, generator=generator())
    present = AVAILABLE > 0
    assert torch.equal(visible + targets, AVAILABLE)
    assert not ((visible > 0) & (targets > 0)).any()
    several = present.sum(1) > 1
    assert (targets[several] > 0).any(1).all()
    assert (visible[several] > 0).any(1).all()
    assert torch.equal(targets[present.sum(1) == 1], AVAILABLE[present.sum(1) == 1])
    three = targets[0::5] > 0  # of three modalities one is hidden half of the time, else one or two
    assert float((three.sum(1) == 1).float().mean()) == pytest.approx(0.75, abs=0.1)
    assert set(three.sum(1).tolist()) == {1, 2}
    often = three.float().mean(0)  # of 4, 10 and 40 tokens
    assert often[0] < often[1] < often[2]


def test_the_same_seed_draws_the_same(fitted, batch):
    tokens = fitted.tokenize(batch())
    first = draw_masks(tokens, tokens.layout, generator=generator(1))
    again = draw_masks(tokens, tokens.layout, generator=generator(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], draw_masks(tokens, tokens.layout, generator=generator(2))[0])
    torch.manual_seed(5)
    own = draw_masks(tokens, tokens.layout)
    torch.manual_seed(5)
    assert torch.equal(own[0], draw_masks(tokens, tokens.layout)[0])


def test_masks_are_disjoint_and_of_observed_tokens(fitted, batch):
    some = batch(16)
    some.valid["photo"][::2] = False
    some.valid["weather"][1::4, :9] = False
    tokens = fitted.tokenize(some)
    for seed in range(20):
        visible, targets = draw_masks(tokens, tokens.layout, generator=generator(seed))
        assert not (visible & targets).any()
        assert not ((visible | targets) & ~tokens.observed).any()


def test_every_token_is_seen_and_asked_for_now_and_then(fitted, batch):
    tokens = fitted.tokenize(batch(16))
    counts = torch.zeros(2, len(tokens.layout))
    for seed in range(40):
        for i, mask in enumerate(draw_masks(tokens, tokens.layout, generator=generator(seed))):
            counts[i] += mask.float().mean(0)
    assert (counts > 4).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": (5, 2)}, r"inputs must be 0 <= low <= high tokens, not \(5, 2\)"),
        ({"targets": (-1, 2)}, "targets must be"),
        ({"alphas": (0.0,)}, "alphas > 0"),
        ({"whole": 1.5}, r"whole in \[0, 1\]"),
    ],
)
def test_wrong_budgets_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_budgets(AVAILABLE, **({"inputs": (1, 2), "targets": (1, 2)} | arguments))


@pytest.mark.parametrize("average", ["modality", "token"])
def test_the_loss_is_the_mean_over_modalities_of_each_ones_mean_or_over_tokens(fitted, batch, average):
    tokens = fitted.tokenize(batch(6))
    visible, targets = draw_masks(tokens, tokens.layout, whole=0, generator=generator(3))
    visible[0], targets[0] = True, False  # nothing is asked of one
    losses = MaskedPrediction(spread=0, average=average).score(fitted, tokens, visible, targets, accuracy=True)
    by_sample = [[] for _ in range(6)]
    every = []
    for name, part in tokens.layout.slices.items():
        asked = targets[:, part]
        scores, codes = fitted.predict(tokens, visible, name), tokens.of(name)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)
        for b in asked.any(1).nonzero()[:, 0].tolist():
            by_sample[b].append(loss[b][asked[b]].mean())
        every.append(loss[asked])
        torch.testing.assert_close(losses.by_modality[name], loss[asked].mean())
        torch.testing.assert_close(losses.accuracy[name], (scores.argmax(2) == codes)[asked].float().mean())
    means = [torch.stack(own).mean() for own in by_sample if own]
    wanted = torch.cat(every).mean() if average == "token" else torch.stack(means).mean()
    assert len(means) == 5
    torch.testing.assert_close(losses.total, wanted)


def test_a_wrong_average_is_named():
    with pytest.raises(ValueError, match="average is 'modality' or 'token', not 'pixel'"):
        MaskedPrediction(average="pixel")


def test_a_batch_without_targets_has_no_loss_but_can_be_differentiated(fitted, batch):
    tokens = fitted.tokenize(batch(2))
    losses = MaskedPrediction().score(fitted, tokens, tokens.observed, torch.zeros_like(tokens.observed))
    assert losses.total == 0
    losses.total.backward()
    fitted.zero_grad()
