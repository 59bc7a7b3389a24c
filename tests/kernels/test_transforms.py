"""The ops under torch.func, forward mode and second derivatives: right, or a sentence that says what to do instead."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fusion.kernels import (
    bin_decode,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    patch_info_nce_ragged,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.attention import reference as attention
from fusion.kernels.infonce import reference as infonce
from fusion.kernels.quantize import code_statistics
from fusion.kernels.quantize import reference as quantize
from fusion.kernels.quantize.op import code_decode

Function = Callable[[Tensor], Tensor]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BOOK, BUCKET, TABLE = _random(7, 8, seed=1), euclidean_buckets(3, 3), _random(1, 16, 8, seed=2)
KEY, VALUE = _random(2, 2, 4, 10, 16, seed=3)
LABELS = [torch.randint(0, 3, (20,), generator=torch.Generator().manual_seed(n)) for n in range(3)]
TOKENS = _random(2, 3, 4, 8)
CODES = torch.tensor([0, 2, -1, 1, 2])

# By name: what is differentiated, its definition, and where.
OPS: dict[str, tuple[Function, Function, Tensor]] = {
    "patch_info_nce": (patch_info_nce, infonce.patch_info_nce, _random(2, 3, 4, 8)),
    "temperature": (
        lambda t: patch_info_nce(TOKENS, temperature=t),
        lambda t: infonce.patch_info_nce(TOKENS, temperature=t),
        torch.tensor(0.2),
    ),
    "ragged": (
        lambda x: patch_info_nce_ragged(x, *LABELS),
        lambda x: infonce.patch_info_nce_ragged(x, *LABELS),
        _random(20, 8),
    ),
    "relative_attention": (
        lambda x: relative_attention(x, KEY, VALUE, table=TABLE, bucket=BUCKET),
        lambda x: attention.relative_attention(x, KEY, VALUE, table=TABLE, bucket=BUCKET),
        _random(2, 4, 10, 16),
    ),
    "vector_quantize": (
        lambda x: vector_quantize(x, BOOK, gradient="rotation")[0],
        lambda x: quantize.vector_quantize(x, BOOK, gradient="rotation")[0],
        _random(20, 8),
    ),
    "commitment": (
        lambda x: vector_quantize(x, BOOK)[2],
        lambda x: quantize.vector_quantize(x, BOOK)[2],
        _random(20, 8),
    ),
    "finite_scalar_quantize": (
        lambda z: finite_scalar_quantize(z, [5, 4, 3])[0],
        lambda z: quantize.finite_scalar_quantize(z, [5, 4, 3])[0],
        _random(20, 3),
    ),
    "bin_decode": (
        lambda c: bin_decode(CODES, c).nan_to_num(),
        lambda c: quantize.bin_decode(CODES, c).nan_to_num(),
        _random(4),
    ),
    "code_decode": (
        lambda c: code_decode(CODES, c).nan_to_num(),
        lambda c: quantize.code_decode(CODES, c).nan_to_num(),
        _random(4, 3),
    ),
}
TWICE = ("bin_decode", "code_decode")  # their gradient has one, too
every_op = pytest.mark.parametrize("name", OPS)


def _loss(f: Function) -> Function:
    return lambda x: f(x).square().sum()


@every_op
def test_reverse_mode_of_torch_func_is_autograds(backend: str, name: str) -> None:
    op, definition, x = OPS[name]
    want = grad(_loss(definition))(x)
    (plain,) = torch.autograd.grad(_loss(op)(y := x.clone().requires_grad_()), y)
    torch.testing.assert_close(plain, want, rtol=1e-4, atol=1e-4)
    assert torch.equal(grad(_loss(op))(x), plain)
    value, back = vjp(_loss(op), x)
    assert torch.equal(value, _loss(op)(x))
    assert torch.equal(back(torch.ones(()))[0], plain)
    assert torch.equal(jacrev(_loss(op))(x), plain)


@every_op
def test_vmap_is_a_loop(backend: str, name: str, recwarn: pytest.WarningsRecorder) -> None:
    op, _, x = OPS[name]
    xs = torch.stack([x, 1.5 * x, x - 0.25 * x])
    assert torch.equal(vmap(op)(xs), torch.stack([op(x) for x in xs]))
    assert torch.equal(vmap(op, in_dims=x.ndim)(xs.movedim(0, -1)), vmap(op)(xs))
    by_sample = vmap(grad(_loss(op)))(xs)
    assert torch.equal(by_sample, torch.stack([grad(_loss(op))(x) for x in xs]))
    whole = grad(lambda xs: vmap(_loss(op))(xs).sum())(xs)
    assert torch.equal(whole, by_sample)
    jacobian = torch.autograd.functional.jacobian(op, x)
    torch.testing.assert_close(jacrev(op)(x), jacobian, rtol=1e-5, atol=1e-6)
    assert not [w for w in recwarn if "performance drop" in str(w.message)]
    torch.testing.assert_close(torch.autograd.functional.jacobian(op, x, vectorize=True), jacobian)


@every_op
def test_forward_mode_is_refused_with_the_op_and_a_way_out(backend: str, name: str) -> None:
    op, _, x = OPS[name]
    told = "no forward-mode derivative .*take reverse mode .*torch.func.vjp"
    with pytest.raises(RuntimeError, match=told):
        jvp(op, (x,), (x,))
    with pytest.raises(RuntimeError, match=told):
        jacfwd(op)(x)
    with pytest.raises(RuntimeError, match=told), forward_ad.dual_level():
        op(forward_ad.make_dual(x, x))
    with pytest.raises(RuntimeError, match=told), forward_ad.dual_level():
        op(forward_ad.make_dual(x, x).requires_grad_())
    with pytest.raises(RuntimeError, match=r"has no|not implemented"):
        hessian(_loss(op))(x)
    with forward_ad.dual_level():  # nothing is asked of this one
        assert torch.equal(op(x), op(x.clone()))


@pytest.mark.parametrize("name", [name for name in OPS if name not in TWICE])
def test_second_derivatives_are_refused_with_a_way_out(backend: str, name: str) -> None:
    op, _, x = OPS[name]
    told = "(no second derivative|second derivatives).*use fusion.kernels.*reference"
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(_loss(op)(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match=told):
        torch.autograd.grad(first.square().sum(), x)
    with pytest.raises(RuntimeError, match=told):
        grad(lambda y: grad(_loss(op))(y).square().sum())(x.detach())


@pytest.mark.parametrize("name", TWICE)
def test_decoding_can_be_differentiated_twice(backend: str, name: str) -> None:
    op, definition, x = OPS[name]

    def twice(f: Function) -> Function:
        return grad(lambda y: grad(_loss(f))(y).square().sum())

    torch.testing.assert_close(twice(op)(x), twice(definition)(x))
    assert torch.autograd.gradgradcheck(op, x.double().requires_grad_())


def test_gradients_of_each_sample_of_a_module(backend: str) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.book = nn.Linear(8, 8), nn.Parameter(BOOK.clone())

        def forward(self, x: Tensor) -> Tensor:
            _, codes, commitment = vector_quantize(self.project(x), self.book)
            return commitment + (code_decode(codes, self.book) - x).square().mean()

    model = Small()
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, parameters, (x,))

    samples = _random(3, 20, 8)
    found = vmap(grad(loss), in_dims=(None, 0))(parameters, samples)
    for n, x in enumerate(samples):
        wanted = torch.autograd.grad(model(x), list(model.parameters()))
        for gradient, want in zip(found.values(), wanted, strict=True):
            torch.testing.assert_close(gradient[n], want)


def test_transforms_under_autocast_and_compile(backend: str) -> None:
    x = _random(2, 3, 4, 8)
    with torch.autocast("cpu", torch.bfloat16):
        y = x.clone().requires_grad_()
        (want,) = torch.autograd.grad(patch_info_nce(y), y)
        assert torch.equal(grad(patch_info_nce)(x), want)
    compiled = torch.compile(grad(patch_info_nce), backend="aot_eager")
    torch.testing.assert_close(compiled(x), grad(patch_info_nce)(x))
    assert torch.equal(patch_info_nce(x), vmap(patch_info_nce)(x[None])[0])  # nothing a transform made is remembered


def test_what_has_no_gradient_has_none_under_transforms_either(backend: str) -> None:
    x = _random(3, 20, 8)
    assert torch.equal(vmap(lambda x: nearest_code(x, BOOK))(x), nearest_code(x, BOOK))
    edges = torch.linspace(-1, 1, 5)
    assert torch.equal(vmap(lambda x: bin_encode(x, edges))(x), bin_encode(x, edges))
    codes = nearest_code(x, BOOK)
    counts, sums = vmap(lambda x, c: code_statistics(x, c, 7))(x, codes)
    assert torch.equal(counts.sum(0), code_statistics(x, codes, 7)[0])
    torch.testing.assert_close(sums.sum(0), code_statistics(x, codes, 7)[1])
