import pytest
import torch

from fusion.layers import DropPath, TransformerBlock, encode_days


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop = DropPath(0.25)
    out = drop(torch.ones(4000, 3, 2))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample.unique().tolist() == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(out), out)


def test_block_hands_arguments_to_its_attention():
    class Shift(torch.nn.Module):
        def forward(self, x, by):
            return torch.full_like(x, by)

    block = TransformerBlock(Shift(), 8, 16)
    torch.nn.init.zeros_(block.feed_forward.contract.weight)
    torch.nn.init.zeros_(block.feed_forward.contract.bias)
    x = torch.randn(2, 3, 8)
    torch.testing.assert_close(block(x, by=2.0), x + 2)


def test_days_of_any_kind_have_a_code():
    days = torch.tensor([[-40, 0], [366, 4000]])
    code = encode_days(days, 6, period=100.0)
    assert code.shape == (2, 2, 6)
    exponent = torch.tensor([0, 0, 2, 2, 4, 4], dtype=torch.float64) / 6
    angle = days[..., None].double() / 100.0**exponent
    expected = torch.where(torch.arange(6) % 2 == 0, angle.sin(), angle.cos())
    torch.testing.assert_close(code, expected.float())
    torch.testing.assert_close(encode_days(days.float(), 6, period=100.0), code, atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="width must be even and positive, not 5"):
        encode_days(days, 5)
