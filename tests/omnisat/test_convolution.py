"""Convolutions of the image encoder and decoder: the operator that they run, inside autocast and out of it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.kernels.backends import chosen
from fusion.kernels.convolution import eager
from fusion.omnisat.image import ResidualBlock
from fusion.omnisat.pooling import to_channels_last, unpool
from fusion.omnisat.unpooling import UnpoolConvolution


def positions(count: int, channels: int, side: int) -> Tensor:
    """Of maxima in maps of 2 side x 2 side pixels, (N, C, side, side) int16."""
    rng = torch.Generator().manual_seed(0)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    inside = torch.randint(0, 2, (2, count, channels, side, side), generator=rng)
    index = (2 * row + inside[0]) * 2 * side + 2 * column + inside[1]
    return index.to(torch.int16).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("maps", "channels", "side"), [(5, 16, 3), (40, 128, 6)], ids=["small", "by C++"])
def test_unpooling_and_a_transposed_convolution(maps: int, channels: int, side: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer, index = UnpoolConvolution(channels), positions(maps, channels, side)
    # As the decoder lays them out; PyTorch rounds otherwise elsewhere.
    to_channels_last(layer)
    x = torch.randn(maps, channels, side, side).contiguous(memory_format=torch.channels_last)
    grad = torch.randn(maps, channels, 2 * side, 2 * side)

    def run(ours: bool, dtype: torch.dtype) -> list[Tensor]:
        mine, given = x.to(dtype).requires_grad_(), layer.weight.detach().to(dtype).requires_grad_()
        if ours:
            out = torch.func.functional_call(layer, {"weight": given}, (mine, index, 2 * side))
        else:
            out = F.conv_transpose2d(unpool(mine, index, 2 * side), given, padding=1)
        return [out.detach(), *torch.autograd.grad(out, (mine, given), grad.to(dtype))]

    found = run(True, dtype)
    if channels == 128 and dtype == torch.float32:
        assert chosen()["convolution_3x3"] == "cpp"
    for a, b, exact in zip(found, run(False, dtype), run(False, torch.float64), strict=True):
        assert (a.double() - exact).norm() <= 2 * (b.double() - exact).norm() + 1e-12 * exact.norm()


def test_inside_autocast_and_out_of_it(monkeypatch) -> None:
    calls = []
    usual = eager.side_by_side
    monkeypatch.setattr(eager, "side_by_side", lambda *maps: calls.append(1) or usual(*maps))
    block, up = ResidualBlock(16, 4), UnpoolConvolution(16)
    small, index = torch.randn(3, 16, 2, 2), positions(3, 16, 2)
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
