"""The stand-in for the original's index operator."""

from __future__ import annotations

import pytest
import torch

from fusion.compat import irpe
from fusion.compat.irpe import RPEIndexFunction, rpe_index
from fusion.kernels import euclidean_buckets, relative_attention


def _inputs(dtype=torch.float32, queries=37, keys=40, buckets=8):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, queries, buckets, generator=generator, dtype=torch.float64).to(dtype)
    return values.requires_grad_(), torch.randint(buckets, (queries, keys), generator=generator, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("block", [1 << 22, 1000])
def test_gathers_and_adds_up(dtype, block, monkeypatch):
    monkeypatch.setattr("fusion.compat.irpe._BLOCK", block)  # 1000: several blocks
    values, index = _inputs(dtype)
    output = rpe_index(values, index)
    rows = torch.arange(37)[:, None]
    assert torch.equal(output, values[:, :, rows, index.long()])

    gradient = torch.randn(2, 3, 37, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    output.backward(gradient)
    expected = torch.zeros(2, 3, 37, 8, dtype=torch.float64)
    expected.scatter_add_(3, index.long().expand(2, 3, -1, -1), gradient.double())
    tolerance = 16 * torch.finfo(dtype).eps  # a few values add up in a bucket
    torch.testing.assert_close(values.grad.double(), expected, atol=tolerance, rtol=tolerance)
    again = torch.autograd.grad(rpe_index(values, index), values, gradient)[0]
    assert torch.equal(again, values.grad)


def test_gradients_of_gradients():
    values, index = _inputs(torch.float64, 3, 5, 4)
    assert torch.autograd.gradcheck(rpe_index, (values, index))
    assert torch.autograd.gradgradcheck(rpe_index, (values, index))


def test_serves_the_original_formula():
    """The bias of iRPE, gathered and added to explicit logits, is what the fused op computes without them."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 4, 37, 16, dtype=torch.float64) for _ in range(3))
    table, bucket = torch.randn(1, 16, 8, dtype=torch.float64), euclidean_buckets(6, 6)
    scaled = query * 16**-0.5
    logits = scaled @ key.transpose(-1, -2) + RPEIndexFunction.apply(scaled @ table, bucket.int())
    fused = relative_attention(query, key, value, table=table, bucket=bucket)
    torch.testing.assert_close(fused, logits.softmax(-1) @ value)


def test_compiles_without_graph_breaks():
    values, index = _inputs()
    compiled = torch.compile(rpe_index, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values, index), rpe_index(values, index))


def test_works_with_transforms_of_functions():
    """Gradients and batches by torch.func, against plain indexing; no directional derivatives (torch.compile)."""
    values, index = _inputs(torch.float64, 5, 6, 4)
    values, tangent = values.detach(), torch.randn(2, 3, 5, 4, dtype=torch.float64)

    def plain(x):
        return x.gather(3, index.long().expand(2, 3, -1, -1)).sin()

    def ours(x):
        return RPEIndexFunction.apply(x, index).sin()

    for transform in (
        lambda f: torch.func.grad(lambda x: f(x).sum())(values),
        lambda f: torch.func.vmap(f)(torch.stack([values, tangent])),
        lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(torch.stack([values, tangent])),
    ):
        torch.testing.assert_close(transform(ours), transform(plain))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(ours, (values,), (tangent,))


def test_shapes_without_data():
    values = torch.empty(2, 3, 5, 4, device="meta", requires_grad=True)
    output = rpe_index(values, torch.empty(5, 6, dtype=torch.int32, device="meta"))
    assert output.shape == (2, 3, 5, 6)
    output.sum().backward()
    assert values.grad.shape == values.shape


def test_has_the_version_that_irpe_expects():
    assert irpe.EXPECTED_VERSION == "1.2.0"


def test_empty():
    values, index = _inputs(keys=0)
    rpe_index(values, index).sum().backward()
    assert values.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda index: index.float(), TypeError, "float32.*integers"),
        (lambda index: index[:5], ValueError, r"\(2, 3, 37, 8\) and \(5, 40\)"),
        (lambda index: index + 8, ValueError, r"index holds 1\d, outside 0\.\.7"),
        (lambda index: index - 9, ValueError, r"index holds -9, outside 0\.\.7"),
    ],
)
def test_refuses_what_does_not_fit(change, error, message):
    values, index = _inputs()
    for call in (rpe_index, RPEIndexFunction.apply):
        with pytest.raises(error, match=message):
            call(values, change(index))
