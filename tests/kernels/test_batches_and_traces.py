"""Operators as torch differentiates and traces them: many gradients at once, and views that are negated when read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fusion.kernels import (
    euclidean_buckets,
    finite_scalar_quantize,
    patch_info_nce,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.quantize.op import code_decode

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BUCKET = euclidean_buckets(2, 2)
KEY, VALUE = _random(2, 2, 5, 4, seed=1), _random(2, 2, 5, 4, seed=2)
TABLE, CODEBOOK = _random(1, 4, int(BUCKET.max()) + 1, seed=3), _random(7, 4, seed=1)


def _attend(query: Tensor) -> Tensor:
    return relative_attention(query, KEY, VALUE, table=TABLE, bucket=BUCKET)


def _rotated(x: Tensor) -> Tensor:
    return vector_quantize(x, CODEBOOK, gradient="rotation")[0]


OPERATORS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "patch_info_nce": (lambda x: patch_info_nce(x, reduction="none"), _random(2, 3, 2, 4)),
    "relative_attention": (_attend, _random(2, 2, 5, 4)),
    "vector_quantize": (_rotated, _random(6, 4)),
    "finite_scalar_quantize": (lambda x: finite_scalar_quantize(x, [8, 5, 5, 4])[0], _random(6, 4)),
    "code_decode": (lambda book: code_decode(torch.tensor([0, 2, 2, 1]), book), _random(4, 3)),
}
operators = pytest.mark.parametrize("name", OPERATORS)


@operators
def test_rows_of_the_jacobian_can_be_asked_for_at_once(name: str) -> None:
    operator, x = OPERATORS[name]
    x = x.clone().requires_grad_()
    y = operator(x)
    each = torch.eye(y.numel()).view(-1, *y.shape)
    one_by_one = torch.stack([torch.autograd.grad(y, x, row, retain_graph=True)[0] for row in each])
    assert one_by_one.abs().sum() > 0
    (at_once,) = torch.autograd.grad(y, x, each, is_grads_batched=True)
    torch.testing.assert_close(at_once, one_by_one)
    jacobian = torch.autograd.functional.jacobian(operator, x.detach(), vectorize=True)
    torch.testing.assert_close(jacobian.view_as(one_by_one), one_by_one)


@operators
def test_views_that_are_negated_when_read_are_what_they_say(name: str) -> None:
    operator, x = OPERATORS[name]
    plain, part = x.clone().requires_grad_(), x.clone().requires_grad_()
    negated = torch.complex(torch.zeros_like(part), -part).conj().imag
    assert negated.is_neg()
    found, wanted = operator(negated), operator(plain)
    assert torch.equal(found, wanted)
    found.square().sum().backward()
    wanted.square().sum().backward()
    assert plain.grad is not None
    assert part.grad is not None
    torch.testing.assert_close(part.grad, plain.grad)


@operators
def test_traced_functions_compute_anew(name: str) -> None:
    operator, x = OPERATORS[name]
    traced = torch.jit.trace(operator, (x,), check_trace=False)
    assert torch.equal(traced(2 * x), operator(2 * x))
    through, plain = (2 * x).requires_grad_(), (2 * x).requires_grad_()
    traced(through).square().sum().backward()
    operator(plain).square().sum().backward()
    assert through.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(through.grad, plain.grad)
