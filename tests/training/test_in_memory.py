import pytest
import torch
from torch import nn

from fusion.training.in_memory import descend, row_batches


def test_it_takes_the_steps_that_a_loop_written_out_takes():
    x, y = torch.randn(64, 3), torch.randn(64)

    def fresh():
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    def squared(model):
        return (model(x)[:, 0] - y).square().mean()

    ours, plain = fresh(), fresh()
    descend(ours, lambda step: squared(ours), steps=20, lr=0.1, weight_decay=0.05, clip=0.5)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.1, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)
    for _ in range(20):
        optimizer.zero_grad()
        squared(plain).backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        schedule.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_what_is_frozen_stays():
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 1))
    before = model[0].weight.clone()
    descend(model, lambda step: model(torch.ones(4, 2)).sum(), steps=2, lr=0.1)
    assert torch.equal(model[0].weight, before)
    assert model.training


def test_every_row_comes_once_an_epoch_and_batches_are_full():
    batches = row_batches(5, 3, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(batches) for _ in range(5)])
    assert drawn.shape == (15,)
    assert all(sorted(epoch.tolist()) == list(range(5)) for epoch in drawn.split(5))


def test_a_batch_may_be_larger_than_the_data():
    assert next(row_batches(2, 5, torch.Generator())).bincount().max() == 3


@pytest.mark.parametrize(("steps", "trained"), [(0, True), (3, False)])
def test_nothing_to_do_is_refused(steps, trained):
    model = nn.Linear(2, 1).requires_grad_(trained)
    with pytest.raises(ValueError, match="at least one of each"):
        descend(model, lambda step: model(torch.ones(1, 2)).sum(), steps=steps, lr=0.1)
