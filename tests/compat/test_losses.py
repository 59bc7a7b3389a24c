"""The stand-ins against the formulas they replace, written out here in plain PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.compat.lightly import NTXentLoss
from fusion.compat.omnisat import MILNCE, MILNCE_easy, MILNCE_naive, MILNCE_nointra
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
    with pytest.raises(NotImplementedError, match=r"use_horovod=True.*use torch\.distributed"):
        ClipLoss(use_horovod=True)


def test_clip_loss_gives_its_logits_and_labels() -> None:
    image, text = _features(5, 8, seed=0), _features(5, 8, seed=1)
    loss = ClipLoss(cache_labels=True)
    for_images, for_texts = loss.get_logits(image, text, 10.0, logit_bias=torch.tensor(-3.0))
    torch.testing.assert_close(for_images, 10 * image @ text.T - 3)
    torch.testing.assert_close(for_texts, 10 * text @ image.T - 3)
    labels = loss.get_ground_truth(image.device, 5)
    assert torch.equal(labels, torch.arange(5))
    assert loss.get_ground_truth(image.device, 5) is labels
    assert torch.equal(loss.get_ground_truth(image.device, 4), torch.arange(4))


def test_clip_loss_uses_what_a_subclass_overrides() -> None:
    class Margin(ClipLoss):
        def get_logits(self, image_features, text_features, logit_scale, logit_bias=None):
            logits = super().get_logits(image_features, text_features, logit_scale, logit_bias)
            return tuple(part - 2 * torch.eye(len(part)) for part in logits)

    class Reversed(ClipLoss):
        def get_ground_truth(self, device, num_logits):
            return super().get_ground_truth(device, num_logits).flip(0)

    image, text = (_features(5, 8, seed=s).requires_grad_() for s in (0, 1))
    for owner, margin, labels in ((Margin, 2, torch.arange(5)), (Reversed, 0, torch.arange(5).flip(0))):
        changed = 3 * image @ text.T - margin * torch.eye(5)
        want = (F.cross_entropy(changed, labels) + F.cross_entropy(changed.T, labels)) / 2
        _assert_same(owner()(image, text, 3.0), want, [image, text])


@pytest.mark.parametrize("scale", [-3.0, torch.tensor(-3.0, dtype=torch.float64), 3])
def test_clip_loss_with_any_scale_and_bias(scale) -> None:
    image, text = (_features(5, 8, seed=s).requires_grad_() for s in (0, 1))
    bias = _features(5, seed=2).requires_grad_()
    for shift, given in ((0, None), (0, torch.tensor(4.0)), (bias, bias)):
        by_image = scale * image @ text.T + shift
        by_text = scale * text @ image.T + shift
        want = (F.cross_entropy(by_image, torch.arange(5)) + F.cross_entropy(by_text, torch.arange(5))) / 2
        _assert_same(ClipLoss()(image, text, scale, logit_bias=given), want, [image, text])


def test_a_bias_of_the_logits_has_a_gradient_of_zero() -> None:
    bias = torch.tensor(-10.0, requires_grad=True)
    ClipLoss()(_features(5, 8, seed=0), _features(5, 8, seed=1), 3.0, bias).backward()
    assert bias.grad == 0


def test_clip_loss_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(5, 8\) and \(4, 8\)"):
        ClipLoss()(_features(5, 8, seed=0), _features(4, 8, seed=1), 3.0)
    with pytest.raises(ValueError, match=r"world_size=4, but torch\.distributed runs with 1"):
        ClipLoss(world_size=4)(_features(5, 8, seed=0), _features(5, 8, seed=1), 3.0)


def test_nt_xent_is_cross_entropy_over_the_other_view() -> None:
    views = [_features(7, 12, seed=s).requires_grad_() for s in (0, 1)]
    z = F.normalize(torch.cat(views), dim=1)
    logits = (z @ z.T / 0.3).masked_fill(torch.eye(14, dtype=torch.bool), -math.inf)
    want = F.cross_entropy(logits, torch.arange(14).roll(7))
    _assert_same(NTXentLoss(temperature=0.3)(*views), want, views)


def test_nt_xent_of_a_negative_temperature() -> None:
    views = [_features(7, 12, seed=s).requires_grad_() for s in (0, 1)]
    z = F.normalize(torch.cat(views), dim=1)
    logits = (z @ z.T / -0.7).masked_fill(torch.eye(14, dtype=torch.bool), -math.inf)
    _assert_same(NTXentLoss(temperature=-0.7)(*views), F.cross_entropy(logits, torch.arange(14).roll(7)), views)


def test_nt_xent_of_one_image_is_zero() -> None:
    assert NTXentLoss()(_features(1, 8, seed=0), _features(1, 8, seed=1)) == 0


def test_nt_xent_with_a_memory_bank() -> None:
    """MoCo: the positive against the vectors that earlier batches left in the bank."""
    loss = NTXentLoss(temperature=0.3, memory_bank_size=(6, 12)).double()
    start = loss.memory_bank.bank.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(6, dtype=torch.float64))
    first, second = ([_features(4, 12, seed=2 * k + s).requires_grad_() for s in (0, 1)] for k in (0, 1))
    keys = [F.normalize(views[1], dim=1).detach() for views in (first, second)]
    for views, bank in ((first, start), (second, torch.cat([keys[0], start[4:]]))):
        query, key = (F.normalize(x, dim=1) for x in views)
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ bank.T], 1) / 0.3
        _assert_same(loss(*views), F.cross_entropy(logits, torch.zeros(4, dtype=torch.long)), views)
    # The second batch was cut at the end of the bank; the third begins at its start.
    torch.testing.assert_close(loss.memory_bank.bank, torch.cat([keys[0], keys[1][:2]]))
    assert loss.memory_bank.bank_ptr == 0
    before = loss.memory_bank.bank.clone()
    loss(first[0].detach(), first[1].detach())  # evaluation: nothing to learn, nothing to remember
    assert torch.equal(loss.memory_bank.bank, before)
    assert not loss.state_dict()


def test_a_memory_bank_learns_its_width_from_the_first_batch() -> None:
    with pytest.warns(UserWarning, match="size=6' does not specify feature dimension"):
        loss = NTXentLoss(memory_bank_size=6)
    loss(_features(2, 5, seed=0).float(), _features(2, 5, seed=1).float())
    assert loss.memory_bank.bank.shape == (6, 5)
    with pytest.raises(ValueError, match=r"vectors \(5,\), got \(4,\)"):
        loss(_features(2, 4, seed=0).float(), _features(2, 4, seed=1).float())


def test_nt_xent_refuses_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="Illegal temperature"):
        NTXentLoss(temperature=0.0)
    with pytest.raises(ValueError, match="memory bank size -3"):
        NTXentLoss(memory_bank_size=-3)
    with pytest.raises(ValueError, match=r"\(4, 8\) and \(5, 8\)"):
        NTXentLoss()(_features(4, 8, seed=0), _features(5, 8, seed=1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_losses_in_half_precision(dtype: torch.dtype) -> None:
    image, text = (F.normalize(_features(9, 16, seed=s), dim=1) for s in (0, 1))
    for loss, arguments in ((ClipLoss(), (10.0,)), (NTXentLoss(0.3), ()), (NTXentLoss(0.3, (4, 16)).to(dtype), ())):
        views = [x.to(dtype).requires_grad_() for x in (image, text)]
        value = loss(*views, *arguments)
        value.backward()
        assert value.isfinite()
        assert views[0].grad.abs().sum() > 0


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


def test_milnce_gives_logits_to_validation_alone() -> None:
    """The published validation step hands ``logits`` to its metric; the training step throws them away."""
    tokens = {f"tokens_{name}": _features(4, 5, 8, seed=s).requires_grad_() for s, name in enumerate("ab")}
    loss = MILNCE("ab")
    x = F.normalize(torch.cat([tokens["tokens_a"], tokens["tokens_b"]]).flatten(0, 1), dim=1)
    assert loss((tokens, None)).keys() == {"contrastive_loss", "accuracy"}
    with torch.no_grad():
        torch.testing.assert_close(loss((tokens, None), {})["logits"], x @ x.T)
    torch.testing.assert_close(loss.eval()((tokens, None), {})["logits"], x @ x.T)


@pytest.mark.parametrize("variant", [MILNCE_nointra, MILNCE_naive, MILNCE_easy])
def test_milnce_variants_leave_out_what_the_published_ones_do(variant: type[MILNCE]) -> None:
    """Their denominators, written out: other modalities; all but the anchor; other tiles, without the positives."""
    names, tiles, patches = ("aerial", "s2", "s1-asc"), 3, 36
    shared = _features(tiles, patches, 8, seed=9)  # near-equal views: the loss of the easy variant is negative
    tokens = {
        f"tokens_{name}": (shared + 0.1 * _features(tiles, patches, 8, seed=s)).requires_grad_()
        for s, name in enumerate(names)
    }
    x = F.normalize(torch.cat([tokens[f"tokens_{name}"] for name in names]).flatten(0, 1), dim=1)
    rows = torch.arange(3 * tiles * patches)
    modality, tile, patch = rows // (tiles * patches), rows // patches % tiles, rows % patches
    same_place = (tile[:, None] == tile) & (patch[:, None] == patch) & (rows[:, None] != rows)
    left_out = {
        MILNCE_nointra: modality[:, None] == modality,
        MILNCE_naive: rows[:, None] == rows,
        MILNCE_easy: tile[:, None] == tile,
    }[variant]
    logits = x @ x.T / 0.1
    negatives = logits.masked_fill(left_out, -math.inf).logsumexp(1)
    want = (negatives - logits.masked_fill(~same_place, -math.inf).logsumexp(1)).mean()
    _assert_same(variant(names)((tokens, None), {})["contrastive_loss"], want, list(tokens.values()))


def test_milnce_variants_golden_numbers(golden) -> None:
    for size, recorded in golden("omnisat")["contrastive"].items():
        if "naive" in recorded:
            m, b, p, d = (int(part[2:]) for part in size.split(","))
            index = torch.arange(b * p * d, dtype=torch.float32).reshape(b, p, d)
            tokens = {f"tokens_{k}": torch.sin(0.1 * index * (k + 1) + k) for k in range(m)}
            for variant, key in ((MILNCE_naive, "naive"), (MILNCE_nointra, "nointra")):
                loss = variant([str(k) for k in range(m)])((tokens, None))["contrastive_loss"]
                assert abs(loss.item() - recorded[key]) < 5e-6


def test_milnce_refuses_what_it_cannot_compare() -> None:
    tokens = {"tokens_a": _features(2, 4, 8, seed=0), "tokens_b": _features(2, 4, 8, seed=1)}
    with pytest.raises(ValueError, match=r"tokens_c not in the input, which has \['tokens_a', 'tokens_b'\]"):
        MILNCE("abc")((tokens, None))
    with pytest.raises(ValueError, match=r"alike.*\(2, 4, 8\).*\(2, 3, 8\)"):
        MILNCE("ab")(({**tokens, "tokens_b": _features(2, 3, 8, seed=1)}, None))
    with pytest.raises(ValueError, match=r"4 patches.*made for 36; pass patches=4"):
        MILNCE_easy("ab")((tokens, None))
    with pytest.raises(ValueError, match="other tiles, and the batch has 1"):
        MILNCE_easy("ab", patches=4)(({name: x[:1] for name, x in tokens.items()}, None))


def test_milnce_golden_numbers(golden) -> None:
    names = ("aerial", "s2", "s1-asc")
    for (m, b, p, d), want in {(3, 2, 2, 4): 6.256434, (3, 4, 6, 16): 8.881840, (2, 3, 4, 8): 11.725483}.items():
        index = torch.arange(b * p * d, dtype=torch.float32).reshape(b, p, d)
        tokens = {f"tokens_{name}": torch.sin(0.1 * index * (k + 1) + k) for k, name in enumerate(names[:m])}
        result = MILNCE(names[:m], return_logits=True)((tokens, None))
        recorded = golden("omnisat")["contrastive"][f"M={m},B={b},P={p},D={d}"]
        assert abs(result["contrastive_loss"].item() - want) < 5e-6
        torch.testing.assert_close(result["logits"][0], torch.tensor(recorded["logits_row0"]), rtol=0, atol=5e-6)
