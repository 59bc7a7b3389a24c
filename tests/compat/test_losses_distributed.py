"""The losses on two gloo processes against formulas over the joined batch."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.compat.lightly import NTXentLoss
from fusion.compat.open_clip import ClipLoss

from ..ranks import results_of_ranks

WORLD, ROWS, SCALE = 2, 4, 3.0
MODES = list(product((False, True), repeat=2))  # local_loss, gather_with_grad


def _joined() -> list[Tensor]:
    torch.manual_seed(0)
    return [F.normalize(torch.randn(WORLD * ROWS, 8, dtype=torch.float64), dim=1) for _ in range(2)]


def _rank(rank: int) -> list:
    mine = slice(rank * ROWS, (rank + 1) * ROWS)
    results = []
    for local, with_grad in MODES:
        views = [x[mine].clone().requires_grad_() for x in _joined()]
        scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
        loss = ClipLoss(local_loss=local, gather_with_grad=with_grad, rank=rank, world_size=WORLD)
        value = loss(*views, scale)
        gradients = torch.autograd.grad(value, [*views, scale])
        labels = loss.get_ground_truth(scale.device, ROWS if local else WORLD * ROWS)
        by_logits = sum(F.cross_entropy(logits, labels) for logits in loss.get_logits(*views, scale)) / 2
        results.append((value.detach(), gradients, by_logits.detach()))
    views = [x[mine].clone().requires_grad_() for x in _joined()]
    value = NTXentLoss(0.3, gather_distributed=True)(*views)
    results.append((value.detach(), torch.autograd.grad(value, views)))
    bank = NTXentLoss(0.3, (WORLD * ROWS, 8), gather_distributed=True).double()
    bank(*views)
    results.append(bank.memory_bank.bank)
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[list]:
    return results_of_ranks(_rank, tmp_path_factory.mktemp("ranks"), WORLD)


@pytest.mark.parametrize(("mode", "local", "with_grad"), [(i, *mode) for i, mode in enumerate(MODES)])
def test_clip_loss_of_ranks(ranks: list[list], mode: int, local: bool, with_grad: bool) -> None:
    image, text = (x.requires_grad_() for x in _joined())
    scale = torch.tensor(SCALE, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(len(image))
    logits = scale * image @ text.T
    rows = (F.cross_entropy(logits, labels, reduction="none") + F.cross_entropy(logits.T, labels, reduction="none")) / 2
    joined = torch.autograd.grad(rows.mean(), [image, text, scale], retain_graph=True)
    scales = []
    for rank in range(WORLD):
        value, (d_image, d_text, d_scale), by_logits = ranks[rank][mode]
        mine = slice(rank * ROWS, (rank + 1) * ROWS)
        torch.testing.assert_close(value, rows[mine].mean() if local else rows.mean(), check_dtype=False)
        torch.testing.assert_close(by_logits, value)
        scales.append(d_scale)
        if local and not with_grad:  # the others' features, and one's own among them, are constants
            own = [x[mine].detach().clone().requires_grad_() for x in (image, text)]
            first, second = SCALE * own[0] @ text.detach().T, SCALE * own[1] @ image.detach().T
            constant = (F.cross_entropy(first, labels[mine]) + F.cross_entropy(second, labels[mine])) / 2
            want = torch.autograd.grad(constant, own)
        else:
            want = [(WORLD if with_grad else 1) * x[mine] for x in joined[:2]]
        torch.testing.assert_close(d_image, want[0])
        torch.testing.assert_close(d_text, want[1])
    torch.testing.assert_close(sum(scales) / WORLD, joined[2])  # what DistributedDataParallel makes of them


def test_nt_xent_of_ranks(ranks: list[list]) -> None:
    views = [x.requires_grad_() for x in _joined()]
    z = F.normalize(torch.cat(views), dim=1)
    count = len(views[0])
    logits = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
    rows = F.cross_entropy(logits, torch.arange(2 * count).roll(count), reduction="none").view(2, count).mean(0)
    joined = torch.autograd.grad(rows.mean(), views, retain_graph=True)
    for rank in range(WORLD):
        value, gradients = ranks[rank][len(MODES)]
        mine = slice(rank * ROWS, (rank + 1) * ROWS)
        torch.testing.assert_close(value, rows[mine].mean())
        for got, want in zip(gradients, joined, strict=True):
            torch.testing.assert_close(got, WORLD * want[mine])
        torch.testing.assert_close(ranks[rank][-1], F.normalize(views[1], dim=1).detach())
