"""Models in half precision, and backward passes inside autocast: losses and gradients near those of float32."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusion.compat.omnisat import OriginalOmniSat
from fusion.data import Modality
from fusion.layers import MaskedBatchNorm, MaskedGroupNorm
from fusion.omnisat import OmniSat
from fusion.omnisat.stem import Stem
from fusion.omnisat.unpooling import UnpoolConvolution, UnpoolProjection

half = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
DAYS = {"s2": torch.tensor([[5, 40, 80, 120], [15, 60, 150, 250]])}


def _original() -> tuple[OriginalOmniSat, dict[str, Tensor], Tensor]:
    modalities = (
        Modality("aerial", "image", tuple("RGB"), 0.5, 10),
        Modality("s2", "series", ("B2", "B3", "B4"), 10, 1),
    )
    model = OriginalOmniSat(modalities, 9, dim=32, depth=2, heads=2, dropout=0.0, drop_path=0.0)
    values = {"aerial": torch.randn(2, 3, 30, 30), "s2": torch.randn(2, 4, 3, 3, 3)}
    return model, values, torch.rand(2, 18)


@half
def test_the_published_model_pretrains_in_half_precision(dtype: torch.dtype) -> None:
    model, values, noise = _original()
    narrow = copy.deepcopy(model).to(dtype)
    torch.manual_seed(1)  # of the dropout of dates, whose noise is that of float32
    wanted = model.pretrain(values, DAYS, noise).losses["loss"]
    torch.manual_seed(1)
    loss = narrow.pretrain({k: v.to(dtype) for k, v in values.items()}, DAYS, noise).losses["loss"]
    torch.testing.assert_close(loss.float(), wanted, rtol=0.03, atol=0)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in narrow.encoders.parameters())


@half
def test_backward_inside_autocast_is_backward_after_it(dtype: torch.dtype) -> None:
    model, values, noise = _original()
    gradients = []
    for inside in (False, True):
        one = copy.deepcopy(model)
        torch.manual_seed(1)  # of the dropout of dates
        with torch.autocast("cpu", dtype):
            loss = one.pretrain(values, DAYS, noise).losses["loss"]
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        gradients.append({name: p.grad for name, p in one.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    size = sum(float(g.square().sum()) for g in gradients[0].values())
    error = sum(float((g - gradients[1][name]).square().sum()) for name, g in gradients[0].items())
    assert error < 1e-2 * size


@pytest.mark.parametrize("module", [UnpoolConvolution(4), UnpoolProjection(4, 2, 1, 0)], ids=["wide", "narrow"])
def test_unpooling_has_the_same_gradient_inside_autocast(module: Any) -> None:
    x, index = torch.randn(3, 4, 2, 2), torch.tensor([[0, 2], [8, 10]]).expand(3, 4, 2, 2).to(torch.int16)
    found = []
    for inside in (False, True):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            out = module(leaf, index, 4).float().square().sum()
            if inside:
                found.append(torch.autograd.grad(out, (leaf, module.weight)))
        if not inside:
            found.append(torch.autograd.grad(out, (leaf, module.weight)))
    for after, within in zip(*found, strict=True):
        assert torch.equal(after, within)


@half
@pytest.mark.parametrize("valid", [None, torch.tensor([[True, True, False, True]]).expand(2, -1)])
def test_masked_norms_in_half_precision_return_it(dtype: torch.dtype, valid: Tensor | None) -> None:
    x = torch.randn(2, 3, 4, 8)
    rows = None if valid is None else valid[:, None].expand(-1, 3, -1)
    layers: list[tuple[nn.Module, Tensor | None]] = [(MaskedBatchNorm(8), rows), (MaskedGroupNorm(2, 8), valid)]
    for layer, mask in layers:
        wanted, found = layer(x, mask), copy.deepcopy(layer).to(dtype)(x.to(dtype), mask)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)


def test_variances_of_a_stem_in_half_precision_are_not_negative() -> None:
    stem = Stem(2, 8, 1, pooled=True)
    patches = 3 + 0.01 * torch.randn(64, 2, 8, 8)  # small beside the mean
    narrow = copy.deepcopy(stem).bfloat16()
    with torch.no_grad():  # of the same rounded numbers
        stem.conv.weight.copy_(narrow.conv.weight)
    seen = patches.bfloat16()
    weight, _ = narrow.folded(seen) or pytest.fail("nothing is folded in training")
    wanted, _ = stem.folded(seen.float()) or pytest.fail("nothing is folded in training")
    assert weight.dtype == torch.bfloat16
    torch.testing.assert_close(weight.float(), wanted, rtol=0.02, atol=0.02 * wanted.abs().max().item())
    assert (narrow.norm.running_var > 0).all()


@half
def test_omnisat_encodes_and_learns_in_half_precision(dtype: torch.dtype, config: Any, batch: Any) -> None:
    model, tiles = OmniSat(config), batch()
    tiles.valid["s2"][0, 3:] = False
    narrow = copy.deepcopy(model).to(dtype)
    wanted = model.eval()(tiles)
    tiles.values = {name: x.to(dtype) for name, x in tiles.values.items()}
    found = narrow.eval()(tiles)
    assert found.patches.dtype == dtype
    torch.testing.assert_close(found.patches.float(), wanted.patches, rtol=0.1, atol=0.1)
    narrow.train()(tiles).summary.float().square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in narrow.parameters())
