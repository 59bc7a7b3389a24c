"""Backward passes of convolutions as matrix products, against PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.omnisat import convolution, unpooling
from fusion.omnisat.convolution import Convolution, products_backward
from fusion.omnisat.image import ResidualBlock
from fusion.omnisat.unpooling import UnpoolConvolution


def maps(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (3, 3), (6, 6), (2, 5)])
@pytest.mark.parametrize("last", [True, False], ids=["channels last", "channels first"])
def test_gradients_of_a_convolution(height: int, width: int, last: bool) -> None:
    x, grad, weight = maps(4, 5, height, width), maps(4, 7, height, width), maps(7, 5, 3, 3)
    if not last:
        x, grad, weight = (t.contiguous() for t in (x, grad, weight))
    grad_x, kernel = products_backward(grad, x, weight.flip(2, 3).permute(1, 2, 3, 0))
    x.requires_grad_()
    weight.requires_grad_()
    wanted_x, wanted = torch.autograd.grad(F.conv2d(x, weight, padding=1), (x, weight), grad)
    torch.testing.assert_close(grad_x, wanted_x)
    torch.testing.assert_close(kernel.permute(3, 0, 1, 2).flip(2, 3), wanted)
    assert grad_x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [2, 3, 6])
def test_gradients_of_a_transposed_convolution(side: int) -> None:
    x, grad, weight = maps(4, 5, side, side), maps(4, 7, side, side), maps(5, 7, 3, 3)
    grad_x, kernel = products_backward(grad, x, weight.permute(0, 2, 3, 1))
    x.requires_grad_()
    weight.requires_grad_()
    wanted_x, wanted = torch.autograd.grad(F.conv_transpose2d(x, weight, padding=1), (x, weight), grad)
    torch.testing.assert_close(grad_x, wanted_x)
    torch.testing.assert_close(kernel.permute(0, 3, 1, 2), wanted)


def _gradients(run, dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    leaves = [t.to(dtype).detach().requires_grad_() for t in tensors]
    run(*leaves).double().square().sum().backward()
    return [leaf.grad.double() for leaf in leaves]


@pytest.mark.parametrize(("side", "products"), [(3, 1), (6, 1), (7, 0)])
def test_bfloat16_errs_at_most_twice_as_much_as_pytorch(side: int, products: int, monkeypatch) -> None:
    calls = []
    usual = products_backward
    monkeypatch.setattr(convolution, "products_backward", lambda *a: calls.append(1) or usual(*a))
    layer = Convolution(16, 24, 3)
    x, weight = maps(9, 16, side, side), maps(24, 16, 3, 3) / 12

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight}, (x,))

    exact = _gradients(lambda x, w: F.conv2d(x, w, padding=1), torch.float64, x, weight)
    plain = _gradients(lambda x, w: F.conv2d(x, w, padding=1), torch.bfloat16, x, weight)
    got = _gradients(ours, torch.bfloat16, x, weight)
    assert len(calls) == products
    for g, p, e in zip(got, plain, exact, strict=True):
        assert (g - e).norm() <= 2 * (p - e).norm()
    float32 = _gradients(ours, torch.float32, x, weight)
    assert len(calls) == products  # of bfloat16 alone
    for f, e in zip(float32, exact, strict=True):
        torch.testing.assert_close(f.float(), e.float(), rtol=1e-3, atol=1e-3)


def test_inside_autocast_and_out_of_it(monkeypatch) -> None:
    calls = []
    for module in (convolution, unpooling):
        monkeypatch.setattr(module, "products_backward", lambda *a: calls.append(1) or products_backward(*a))
    block, up = ResidualBlock(16, 4), UnpoolConvolution(16)
    small, index = torch.randn(3, 16, 2, 2), torch.tensor([[0, 3], [10, 15]]).expand(3, 16, 2, 2).to(torch.int16)
    found = []
    for cast in (False, True):
        mine, x = copy.deepcopy((block, up)), small.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            out = mine[0](mine[1](x, index, 4))
        out.float().square().sum().backward()
        assert len(calls) == (3 if cast else 0)
        weights = [p.grad for m in mine for p in m.parameters()]
        assert all(w.dtype == torch.float32 for w in weights)
        found.append([x.grad, *weights])
    for exact, rounded in zip(*found, strict=True):
        assert (exact - rounded).norm() < 0.05 * exact.norm()


def test_a_frozen_weight_and_an_input_without_gradient() -> None:
    layer = Convolution(8, 8, 3).bfloat16()
    x = maps(2, 8, 3, 3, dtype=torch.bfloat16)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    with torch.no_grad():
        assert torch.equal(layer(x), F.conv2d(x, layer.weight, padding=1))
