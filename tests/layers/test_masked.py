"""Masked normalisations are the plain ones on what is valid, and nothing else."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fusion.layers import MaskedBatchNorm, MaskedGroupNorm, masked_mean, masked_softmax, standardise

pytestmark = pytest.mark.usefixtures("seeded")


def series(batch=3, patches=2, length=5, channels=8):
    x = torch.randn(batch, patches, length, channels, dtype=torch.float64)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    return x, valid


def test_batch_norm_is_that_of_the_valid_rows():
    x, valid = series()
    rows = valid[:, None].expand(-1, 2, -1)  # (B, P, L)
    masked, plain = MaskedBatchNorm(8).double(), nn.BatchNorm1d(8).double()
    for norm in (masked, plain):
        nn.init.normal_(norm.weight)
        torch.manual_seed(1)
    plain.load_state_dict(masked.state_dict())
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    weights = torch.randn(int(rows.sum()), 8, dtype=torch.float64)
    ours, theirs = masked(a, rows)[rows], plain(b[rows])
    torch.testing.assert_close(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(masked.weight.grad, plain.weight.grad)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(masked, name), getattr(plain, name))


def test_batch_norm_without_observations_keeps_its_statistics():
    x, valid = series()
    norm = MaskedBatchNorm(8).double()
    out = norm(x, torch.zeros_like(valid)[:, None].expand(-1, 2, -1))
    assert out.isfinite().all()
    assert torch.equal(norm.running_mean, torch.zeros(8, dtype=torch.float64))
    assert torch.equal(norm.running_var, torch.ones(8, dtype=torch.float64))


def test_group_norm_is_that_of_the_valid_dates():
    x, valid = series()
    norm = MaskedGroupNorm(4, 8).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    out = norm(x, valid)
    assert out.isfinite().all()
    for tile in (0, 1):
        dates = x[tile][:, valid[tile]].transpose(1, 2)  # (P, C, n)
        expected = F.group_norm(dates, 4, norm.weight, norm.bias, norm.eps).transpose(1, 2)
        torch.testing.assert_close(out[tile][:, valid[tile]], expected)
    torch.testing.assert_close(norm(x), norm(x, torch.ones_like(valid)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_gradient_of_standardise(groups):
    x = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.float64)[:, None]
    assert torch.autograd.gradcheck(lambda x: standardise(x, weight, groups, eps=1e-3)[0], x)


def test_softmax_leaves_out_what_is_not_valid():
    scores = torch.randn(2, 3, 4)
    valid = torch.tensor([[True, False, True, False], [False] * 4])[:, None]
    out = masked_softmax(scores, valid, dim=2)
    torch.testing.assert_close(out[0][:, [0, 2]], scores[0][:, [0, 2]].softmax(1))
    assert (out[0][:, [1, 3]] == 0).all()
    assert (out[1] == 0).all()


def test_mean_of_nothing_is_zero():
    values = torch.tensor([1.0, 2.0, 4.0])
    assert masked_mean(values, torch.tensor([True, False, True])) == 2.5
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0
