"""What Triton compiled is launched again without asking Triton, with the same arguments, and only for calls alike."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from triton.compiler import CompiledKernel
from triton.runtime.jit import JITFunction

from fusion.kernels import (
    backends,
    bin_decode,
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    relative_attention,
    use_backend,
    vector_quantize,
)
from fusion.kernels._triton import launch as launching
from fusion.kernels.quantize import code_statistics

OPTIONS = {"num_warps", "num_stages"}
PREPARING = ("kinds", "order", "columns", "split", "plan")  # kernels whose results are remembered


class Launched(CompiledKernel):
    """Stands for a compiled kernel: keeps what it is launched with."""

    module = None

    def __init__(self, kernel: JITFunction, calls: list[tuple[JITFunction, tuple[int, ...], tuple[Any, ...]]]) -> None:
        self.kernel, self.calls = kernel, calls

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args: self.calls.append((self.kernel, grid, args))


class Triton:
    """Takes the place of ``JITFunction.run``: ``compiled`` has the calls that reach it, ``launched`` the others."""

    def __init__(self) -> None:
        self.compiled: list[tuple[JITFunction, tuple[int, ...], tuple[Any, ...]]] = []
        self.launched: list[tuple[JITFunction, tuple[int, ...], tuple[Any, ...]]] = []

    def run(self, kernel: JITFunction, *args: Any, grid: tuple[int, ...], warmup: bool, **named: Any) -> Launched:
        constants = {name: value for name, value in named.items() if name not in OPTIONS}
        bound = inspect.signature(kernel.fn).bind(*args, **constants)
        self.compiled.append((kernel, grid, tuple(bound.arguments.values())))
        return Launched(kernel, self.launched)


@pytest.fixture
def triton(monkeypatch: pytest.MonkeyPatch) -> Iterator[Triton]:
    """Triton that compiles and launches nothing, and runs on tensors of a CPU."""
    fake, module = Triton(), sys.modules[backends.__module__]
    monkeypatch.setattr(JITFunction, "run", lambda kernel, *args, **options: fake.run(kernel, *args, **options))
    monkeypatch.setattr(launching, "_compiled", {})
    monkeypatch.setattr(module, "_wrong_device", lambda backend, device: None)
    monkeypatch.setattr(module, "unavailable", lambda *which: None)
    with use_backend("triton"):
        yield fake


def _steps() -> dict[str, Callable[[], Any]]:
    torch.manual_seed(0)
    tokens = torch.randn(3, 2, 9, 16).requires_grad_()
    heads = [torch.randn(2, 2, 9, 8).requires_grad_() for _ in range(3)]
    table, bucket = torch.randn(1, 8, 8).requires_grad_(), euclidean_buckets(3, 3, 0)
    x, codebook, codes = torch.randn(20, 8).requires_grad_(), torch.randn(5, 8), torch.arange(20) % 5
    edges, centres = torch.linspace(-1, 1, 6), torch.randn(5)

    def loss(**options: Any) -> Any:
        return torch.autograd.grad(patch_info_nce(tokens, **options), tokens)

    def attention(**options: Any) -> Any:
        output = relative_attention(*heads, table=table, bucket=bucket, **options)
        return torch.autograd.grad(output.sum(), [*heads, table])

    return {
        "InfoNCE": loss,
        "InfoNCE, learned temperature": functools.partial(loss, temperature=torch.tensor(0.1, requires_grad=True)),
        "InfoNCE, dot products": functools.partial(loss, normalize=False, exclude="place"),
        "InfoNCE, accuracy": lambda: patch_info_nce(tokens.detach(), return_accuracy=True),
        "attention": attention,
        "attention, dropout": functools.partial(attention, dropout_p=0.2, key_valid=torch.ones(2, 9, dtype=torch.bool)),
        "nearest code": lambda: nearest_code(x.detach(), codebook),
        "vectors": lambda: torch.autograd.grad(vector_quantize(x, codebook)[0].sum(), x),
        "statistics": lambda: code_statistics(x.detach(), codes, 5),
        "bins": lambda: bin_decode(bin_encode(x.detach(), edges), centres),
        "scalars": lambda: torch.autograd.grad(finite_scalar_quantize(x[:, :2], [5, 4])[0].sum(), x),
    }


@pytest.mark.parametrize("name", _steps())
def test_a_second_call_is_launched_with_what_the_first_was(triton: Triton, name: str) -> None:
    step = _steps()[name]
    step()
    first = [call for call in triton.compiled if not call[0].__name__.startswith(PREPARING)]
    prepared, earlier = len(triton.compiled), len(triton.launched)
    assert first
    step()
    assert len(triton.compiled) == prepared
    second = triton.launched[earlier:]
    assert {kernel for kernel, _, _ in second} <= {kernel for kernel, _, _ in first}
    for (kernel, grid, args), (_, wanted_grid, wanted) in zip(second[-len(first) :], first, strict=False):
        assert grid == (*wanted_grid, 1, 1), kernel
        assert list(map(_described, args)) == list(map(_described, wanted)), kernel


def _described(value: Any) -> Any:
    return (value.dtype, value.shape, value.stride()) if isinstance(value, Tensor) else (type(value), value)


def _decode(count: int = 32, start: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return bin_decode(torch.zeros(count + start, dtype=torch.int64)[start:], torch.arange(5, dtype=dtype))


@pytest.mark.parametrize(
    ("other", "alike"),
    [
        ({}, True),
        ({"start": 1}, False),  # an address that is no multiple of 16
        ({"count": 33}, False),
        ({"dtype": torch.float16}, False),
    ],
)
def test_calls_that_triton_compiles_apart_are_told_apart(triton: Triton, other: dict[str, Any], alike: bool) -> None:
    _decode()
    _decode(**other)
    assert (len(triton.launched), len(triton.compiled)) == ((1, 1) if alike else (0, 2))


def test_constants_tell_calls_apart(triton: Triton) -> None:
    z = torch.randn(20, 2)
    for form in ("tanh", "sigmoid", "tanh"):
        finite_scalar_quantize(z, [5, 4], form=form)
    assert (len(triton.launched), len(triton.compiled)) == (1, 2)


def test_other_makers_gpus_leave_it_to_triton(triton: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "hip", "7.0")
    _decode()
    _decode()
    assert (len(triton.launched), len(triton.compiled)) == (0, 2)


def test_what_is_remembered_is_bounded(triton: Triton, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "_MOST", 3)
    for count in range(2, 12):
        _decode(count)
        assert len(launching._compiled) <= 3
