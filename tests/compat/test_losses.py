"""The stand-ins against the formulas they replace, written out here in plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.compat.lightly import NTXentLoss
from fusion.compat.milnce import MILNCE
from fusion.compat.open_clip import ClipLoss


def _features(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _assert_same(ours: Tensor, theirs: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    for got, want in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(got, want)


def test_clip_loss_is_the_symmetric_cross_entropy() -> None:
    image = F.normalize(_features(9, 16, seed=0), dim=1).requires_grad_()
    text = F.normalize(_features(9, 16, seed=1), dim=1).requires_grad_()
    scale = torch.tensor(1 / 0.07, dtype=torch.float64, requires_grad=True)
    logits, labels = scale * image @ text.T, torch.arange(9)
    want = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss = ClipLoss(local_loss=True, gather_with_grad=True, cache_labels=True)
    _assert_same(loss(image, text, scale), want, [image, text, scale])
    assert loss(image, text, scale, logit_bias=torch.tensor(-10.0), output_dict=True).keys() == {"contrastive_loss"}


def test_clip_loss_at_the_largest_logit_scale() -> None:
    image, text = (F.normalize(_features(9, 16, seed=s).float(), dim=1) for s in (0, 1))
    logits, labels = 100 * image @ text.T, torch.arange(9)
    want = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(ClipLoss()(image, text, torch.tensor(100.0)), want)


def test_clip_loss_refuses_horovod() -> None:
    with pytest.raises(ValueError, match=r"use torch\.distributed"):
        ClipLoss(use_horovod=True)


def test_nt_xent_is_cross_entropy_over_the_other_view() -> None:
    views = [_features(7, 12, seed=s).requires_grad_() for s in (0, 1)]
    z = F.normalize(torch.cat(views), dim=1)
    logits = (z @ z.T / 0.3).masked_fill(torch.eye(14, dtype=torch.bool), -math.inf)
    want = F.cross_entropy(logits, torch.arange(14).roll(7))
    _assert_same(NTXentLoss(temperature=0.3)(*views), want, views)


def test_nt_xent_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="memory_bank_size=4096"):
        NTXentLoss(memory_bank_size=4096)
    with pytest.raises(ValueError, match="Illegal temperature"):
        NTXentLoss(temperature=0.0)


def test_milnce_takes_and_returns_what_the_original_does() -> None:
    names = ("aerial", "s2", "s1-asc")
    tokens = {f"tokens_{name}": _features(4, 5, 8, seed=s).requires_grad_() for s, name in enumerate(names)}
    result = MILNCE(names, tau=0.2, return_logits=True)((tokens, None), {"label": None})
    x = F.normalize(torch.cat([tokens[f"tokens_{name}"] for name in names]).flatten(0, 1), dim=1)
    similarity = x @ x.T  # rows by modality, tile, patch
    block, index = torch.arange(60) // 5, torch.arange(60)
    positives = torch.stack([similarity[index, (index + step) % 60] for step in (20, 40)], 1)
    rows = similarity.masked_fill(block[:, None] == block, -math.inf) / 0.2
    want = (rows.logsumexp(1) - (positives / 0.2).logsumexp(1)).mean()
    _assert_same(result["contrastive_loss"], want, list(tokens.values()))
    torch.testing.assert_close(result["logits"], similarity)
    nearest = rows.argmax(1)
    assert result["accuracy"] == ((nearest - index) % 20 == 0).double().mean()
    assert MILNCE(names)((tokens, None)).keys() == {"contrastive_loss", "accuracy"}


def test_milnce_golden_numbers(golden) -> None:
    names = ("aerial", "s2", "s1-asc")
    for (m, b, p, d), want in {(3, 2, 2, 4): 6.256434, (3, 4, 6, 16): 8.881840, (2, 3, 4, 8): 11.725483}.items():
        index = torch.arange(b * p * d, dtype=torch.float32).reshape(b, p, d)
        tokens = {f"tokens_{name}": torch.sin(0.1 * index * (k + 1) + k) for k, name in enumerate(names[:m])}
        result = MILNCE(names[:m], return_logits=True)((tokens, None))
        recorded = golden("omnisat")["contrastive"][f"M={m},B={b},P={p},D={d}"]
        assert abs(result["contrastive_loss"].item() - want) < 5e-6
        torch.testing.assert_close(result["logits"][0], torch.tensor(recorded["logits_row0"]), rtol=0, atol=5e-6)
