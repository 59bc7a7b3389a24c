"""The stand-ins for losses and iRPE's operator under torch.func, on meta and after divergence."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.compat.irpe import rpe_index
from fusion.compat.lightly import NTXentLoss
from fusion.compat.open_clip import ClipLoss

pytestmark = pytest.mark.usefixtures("seeded")


def _clip(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    logits, labels = scale * images @ texts.T, torch.arange(len(images))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@pytest.fixture
def features() -> tuple[Tensor, Tensor]:
    return F.normalize(torch.randn(6, 8), dim=1), F.normalize(torch.randn(6, 8), dim=1)


def test_clip_loss_has_the_derivatives_of_its_formula(features: tuple[Tensor, Tensor]) -> None:
    scale, loss = torch.tensor(14.3), ClipLoss()
    inputs = *features, scale
    for argument in range(3):
        found, wanted = (torch.func.grad(f, argument)(*inputs) for f in (loss, _clip))
        torch.testing.assert_close(found, wanted)
        found, wanted = (torch.func.jacfwd(f, argument)(*inputs) for f in (loss, _clip))
        torch.testing.assert_close(found, wanted)
    scales = torch.tensor([1.0, 20.0])
    found = torch.vmap(loss, in_dims=(None, None, 0))(*features, scales)
    torch.testing.assert_close(found, torch.stack([_clip(*features, s) for s in scales]))


@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_a_logit_scale_that_diverged_makes_the_loss_nan(features: tuple[Tensor, Tensor], scale: float) -> None:
    for given in (scale, torch.tensor(scale)):
        assert ClipLoss()(*features, given).isnan()


def test_a_memory_bank_made_without_memory_holds_directions() -> None:
    query, key = torch.randn(4, 8), torch.randn(4, 8)
    with torch.device("meta"):
        made = NTXentLoss(memory_bank_size=(16, 8))
    found = made(query.to("meta").requires_grad_(), key.to("meta"))
    assert found.is_meta
    moved = NTXentLoss(memory_bank_size=(16, 8)).to_empty(device="cpu")
    for loss in (made.to_empty(device="cpu"), moved):
        bank = loss.memory_bank
        torch.testing.assert_close(bank.bank.norm(dim=1), torch.ones(16))
        assert bank.bank_ptr.item() == 0
        assert 0 < loss(query.clone().requires_grad_(), key) < 10
        assert bank.bank_ptr.item() == 4
        torch.testing.assert_close(bank.bank[:4], F.normalize(key, dim=1))


def test_biases_of_buckets_of_several_indices_at_once() -> None:
    x, indices = torch.randn(2, 3, 5, 7), torch.randint(7, (3, 5, 6))
    found = torch.vmap(lambda i: rpe_index(x, i))(indices)
    assert torch.equal(found, torch.stack([rpe_index(x, i) for i in indices]))
    slopes = torch.vmap(torch.func.grad(lambda x, i: rpe_index(x, i).square().sum()), in_dims=(None, 0))(x, indices)
    for slope, index in zip(slopes, indices, strict=True):
        torch.testing.assert_close(
            slope, torch.func.grad(lambda x, i=index: x.gather(3, i.expand(2, 3, -1, -1)).square().sum())(x)
        )
