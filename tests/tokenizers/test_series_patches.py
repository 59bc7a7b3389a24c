"""Series to learned codes of their patches, with every quantizer."""

from __future__ import annotations

import math

import pytest
import torch

from fusion.kernels import (
    FiniteScalarQuantizer,
    ProductVectorQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
)
from fusion.tokenizers import PatchTokenizer

nan = math.nan

pytestmark = pytest.mark.usefixtures("seeded")


def waves() -> torch.Tensor:
    """(40, 1, 50) of one period and amplitude, with a gap at the beginning of the first five."""
    phase = torch.rand(40, 1, 1) * 6.28
    x = 20 + 10 * torch.sin(torch.arange(50) * 0.3 + phase)
    x[:5, :, :17] = nan
    return x


@pytest.mark.parametrize(
    "quantizer",
    [
        None,
        lambda: VectorQuantizer(16, 32, restart_below=0.1),
        lambda: FiniteScalarQuantizer([8, 5, 5, 5]),
        lambda: ResidualVectorQuantizer(16, 32, 2, restart_below=0.1),
        lambda: ProductVectorQuantizer(16, 32, 2, restart_below=0.1),
    ],
)
def test_patch_tokenizer_learns(quantizer):
    x = waves()
    tokenizer = PatchTokenizer(quantizer and quantizer(), patch=8, hidden=16, blocks=1)
    before = tokenizer.eval().train().forward(x)[0].sub(x).nan_to_num().square().mean().sqrt()
    tokenizer.fit(x, steps=80)
    assert tokenizer.reconstruction_error(x) < min(4.0, before.item())
    codes, scale = tokenizer.encode(x)
    assert codes.shape[:3] == (40, 1, 7)
    assert (codes[:5, :, :2] == -1).all()
    assert (codes[5:] >= 0).all()
    assert torch.equal(tokenizer.reconstruct(x).isnan()[:5, 0].sum(1), torch.full((5,), 16))
    assert tokenizer.decode(codes, scale).shape == (40, 1, 56)


def test_patch_tokenizer_gradients_are_finite_with_gaps():
    tokenizer = PatchTokenizer(VectorQuantizer(8, 16), patch=4, hidden=8, blocks=1).train()
    _, codes, loss = tokenizer(waves()[3:7, :, :41])
    loss.backward()
    assert codes.shape == (4, 1, 11)
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_a_state_dict_restores_the_tokenizer(tmp_path):
    x = waves()
    tokenizer = PatchTokenizer(VectorQuantizer(8, 16), patch=4, hidden=8).fit(x, steps=3)
    torch.save(tokenizer.state_dict(), tmp_path / "state.pt")
    restored = PatchTokenizer(VectorQuantizer(8, 16), patch=4, hidden=8).eval()
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    torch.testing.assert_close(restored.reconstruct(x), tokenizer.reconstruct(x), equal_nan=True, atol=0, rtol=0)
    assert restored.rate(50) == pytest.approx((13 * 4 + 64) / 50)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="patch=0"):
        PatchTokenizer(patch=0)
    with pytest.raises(ValueError, match="no finite value"):
        PatchTokenizer().fit(torch.full((1, 1, 9), nan))
