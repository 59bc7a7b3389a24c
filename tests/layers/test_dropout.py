import pytest
import torch

from fusion.layers import Dropout, relu_dropout


@pytest.mark.parametrize("rate", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("shape", [(300, 400), (7, 11, 1301)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_share_scale_and_gradient(rate, shape, dtype):
    torch.manual_seed(0)
    x = (torch.randn(shape).abs() + 1).to(dtype).requires_grad_()
    out = Dropout(rate)(x)
    kept = out != 0
    assert kept.double().mean().item() == pytest.approx(1 - rate, abs=0.01)
    torch.testing.assert_close(out[kept], x[kept] / (1 - rate))
    weight = torch.randn(shape).to(dtype)
    (out * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight * kept / (1 - rate))
    # Neighbours come from one 64-bit draw: they must be independent all the same.
    pairs = (kept.flatten()[:-1] & kept.flatten()[1:]).double().mean().item()
    assert pairs == pytest.approx((1 - rate) ** 2, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_relu_dropout(dtype):
    torch.manual_seed(0)
    x = torch.randn(200, 300, dtype=dtype, requires_grad=True)
    out = relu_dropout(x, 0.25, True)
    assert ((out != 0) & (x <= 0)).sum() == 0
    kept = out != 0
    assert kept[x > 0].double().mean().item() == pytest.approx(0.75, abs=0.01)
    torch.testing.assert_close(out[kept], x[kept] / 0.75)
    out.sum().backward()
    torch.testing.assert_close(x.grad, (kept / 0.75).to(dtype))
    torch.testing.assert_close(relu_dropout(x, 0.25, False), x.relu())


def test_seed_and_modes():
    drop, x = Dropout(0.3), torch.ones(1000)
    torch.manual_seed(5)
    first, second = drop(x), drop(x)
    torch.manual_seed(5)
    assert torch.equal(drop(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)
    assert drop.train()(x.bfloat16()).dtype == torch.bfloat16


def test_the_noise_of_half_precision_is_that_of_float32():
    torch.manual_seed(0)
    x = torch.randn(40, 50)
    kept = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        torch.manual_seed(1)
        kept.append(Dropout(0.3)(x.to(dtype)) != 0)
    assert torch.equal(kept[0], kept[1])
    assert torch.equal(kept[0], kept[2])
