"""Tensors give the same wherever and however they lie in memory; of no device, dtype or size is memory read that is
not theirs. `make sanitize` runs this on code that watches every access.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.kernels import (
    arrays,
    bin_decode,
    bin_encode,
    convolution_3x3,
    finite_scalar_quantize,
    nearest_code,
    patch_info_nce,
    patch_info_nce_ragged,
    pool_dates,
    relative_attention,
    vector_quantize,
)
from fusion.kernels.backends import unavailable
from fusion.kernels.quantize import code_decode, code_statistics

if reason := unavailable("cpp"):
    pytest.skip(reason, allow_module_level=True)

Arguments = dict[str, Tensor]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _integers(high: int, *shape: int) -> Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def _pool(norm_weight: Tensor, norm_bias: Tensor, **given: Tensor) -> tuple[Tensor, Tensor]:
    return pool_dates(**given, norm=(norm_weight, norm_bias), groups=2)


HEADS = {name: _random(2, 2, 10, 16, seed=seed) for seed, name in enumerate(("query", "key", "value"))}
PLACES = {"modality": torch.arange(12) % 2, "tile": torch.arange(12) // 6, "patch": torch.arange(12) // 2 % 3}
VECTORS = {"x": _random(33, 7), "codebook": _random(13, 7, seed=1)}
DATES = {
    **{"values": _random(2, 3, 5, 12), "query": _random(2, 12), "offset": _random(2, 5, 2)},
    **{"positions": _random(2, 5, 6), "valid": _integers(2, 2, 5).bool(), "bias": _random(12)},
    **{"norm_weight": _random(12), "norm_bias": _random(12)},
}
CALLS: dict[str, tuple[Callable[..., Any], Arguments]] = {
    "relative_attention": (
        relative_attention,
        {**HEADS, "table": _random(1, 16, 8), "bucket": _integers(8, 10, 10), "key_valid": _integers(2, 2, 10).bool()},
    ),
    "patch_info_nce": (patch_info_nce, {"tokens": _random(2, 3, 4, 9)}),
    "patch_info_nce_ragged": (patch_info_nce_ragged, {"tokens": _random(12, 9), **PLACES}),
    "convolution_3x3": (convolution_3x3, {"x": _random(40, 32, 6, 6), "weight": _random(32, 32, 3, 3)}),
    "pool_dates": (_pool, DATES),
    "nearest_code": (nearest_code, VECTORS),
    "vector_quantize": (vector_quantize, VECTORS),
    "finite_scalar_quantize": (lambda z: finite_scalar_quantize(z, [5, 4, 3]), {"z": _random(33, 3)}),
    "bin_encode, equal": (bin_encode, {"values": _random(33, 3), "edges": torch.linspace(-2, 2, 9)}),
    "bin_encode, uneven": (bin_encode, {"values": _random(33, 3), "edges": _random(9).sort().values}),
    "bin_decode": (bin_decode, {"codes": _integers(9, 33, 3), "centres": _random(9)}),
    "code_decode": (code_decode, {"codes": _integers(9, 33, 3), "codebook": _random(9, 5)}),
    "code_statistics": (
        lambda x, codes: code_statistics(x, codes, 9),
        {"x": _random(33, 5), "codes": _integers(9, 33)},
    ),
}
ARGUMENTS = [(name, argument) for name, (_, arguments) in CALLS.items() for argument in arguments]


def _offset(t: Tensor) -> Tensor:
    """One element behind what an allocator gives."""
    memory = t.new_zeros(t.numel() + 1)
    memory[1:] = t.reshape(-1)
    return memory[1:].view(t.shape)


def _strided(t: Tensor) -> Tensor:
    memory = t.new_zeros([2 * size + 1 for size in t.shape])
    return memory[tuple(slice(1, 1 + 2 * size, 2) for size in t.shape)].copy_(t)


def _transposed(t: Tensor) -> Tensor:
    return t.mT.contiguous().mT if t.ndim > 1 else _strided(t)


VIEWS = {"offset": _offset, "strided": _strided, "transposed": _transposed}


def _results(call: Callable[..., Any], given: Arguments) -> list[Tensor]:
    """What comes out, and gradients of it."""
    given = {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in given.items()}
    found = call(**given)
    outputs = [found] if isinstance(found, Tensor) else [t for t in found if isinstance(t, Tensor)]
    total = sum(t.square().sum() for t in outputs if t.requires_grad)
    if not isinstance(total, Tensor):
        return outputs
    leaves = [t for t in given.values() if t.requires_grad]
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return [t.detach() for t in outputs] + [g for g in gradients if g is not None]


def _check_same(call: Callable[..., Any], given: Arguments, other: Arguments) -> None:
    for found, want in zip(_results(call, given), _results(call, other), strict=True):
        torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4, equal_nan=True)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_it_is_the_same_wherever_a_tensor_lies(name: str, argument: str, view: str) -> None:
    call, given = CALLS[name]
    _check_same(call, given | {argument: VIEWS[view](given[argument])}, given)


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, a in ARGUMENTS if CALLS[n][1][a].ndim > 1])
def test_rows_may_share_memory(name: str, argument: str) -> None:
    call, given = CALLS[name]
    shared = given[argument][:1].expand_as(given[argument])
    _check_same(call, given | {argument: shared}, given | {argument: shared.contiguous()})


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n, a in ARGUMENTS if len(CALLS[n][1]) > 1])
def test_tensors_of_two_devices_are_refused(name: str, argument: str) -> None:
    call, given = CALLS[name]
    with pytest.raises(ValueError, match="meta"):
        call(**given | {argument: given[argument].to("meta")})


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool], ids=str)
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_every_dtype_is_read_as_what_it_is_or_refused(name: str, argument: str, dtype: torch.dtype) -> None:
    call, given = CALLS[name]
    changed = given[argument].to(dtype)
    try:
        found = call(**given | {argument: changed})
    except (TypeError, ValueError):
        return
    want = call(**given | {argument: changed.to(given[argument].dtype)})
    pairs = zip(*((t,) if isinstance(t, Tensor) else t for t in (found, want)), strict=True)
    for one, other in pairs:
        if dtype == torch.int32 or other.is_floating_point():
            torch.testing.assert_close(one.double(), other.double(), atol=5e-2, rtol=5e-2, equal_nan=True)


@pytest.mark.parametrize(("name", "argument"), [pair for pair in ARGUMENTS if pair[0] != "convolution_3x3"])
def test_sizes_of_zero_give_nothing_or_are_refused(name: str, argument: str) -> None:
    call, given = CALLS[name]
    for dimension in range(given[argument].ndim):
        try:
            found = call(**given | {argument: given[argument].narrow(dimension, 0, 0)})
        except ValueError:
            continue
        assert all(t.isfinite().all() for t in ((found,) if isinstance(found, Tensor) else found))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_statistics_take_codes_of_any_integers(dtype: torch.dtype) -> None:
    call, given = CALLS["code_statistics"]
    _check_same(call, given | {"codes": given["codes"].to(dtype)}, given)
    with pytest.raises(TypeError, match=r"code_statistics: codes must be integer, got torch\.float32"):
        call(**given | {"codes": given["codes"].float()})
    with pytest.raises(ValueError, match=r"code_statistics: size=-1 is no number of codes; give K >= 0"):
        code_statistics(*given.values(), -1)


@pytest.mark.parametrize("name", ["bias", "norm_weight", "norm_bias"])
def test_pooling_refuses_integers_that_it_would_read_as_floats(name: str) -> None:
    with pytest.raises(TypeError, match=f"pool_dates: {name.replace('_', ' ')} must be floating point .* torch.int32"):
        _pool(**DATES | {name: DATES[name].int()})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_may_begin_at_any_byte(dtype: type) -> None:
    """As those of a file behind a header."""
    x, edges, uneven = (_random(*size).numpy().astype(dtype) for size in ((40, 3), (9,), (9,)))
    edges, codes = np.linspace(-2, 2, 9).astype(dtype), _integers(9, 40).numpy()

    def moved(array: np.ndarray) -> np.ndarray:
        bytes_ = np.zeros(array.nbytes + 1, np.uint8)
        there = bytes_[1:].view(array.dtype).reshape(array.shape)
        there[...] = array
        assert not there.flags.aligned
        return there

    uneven.sort()
    for function, given in (
        (arrays.nearest_code, (x, x[:5])),
        (lambda z: arrays.finite_scalar_quantize(z, [5, 4, 3])[1], (x,)),
        (arrays.bin_encode, (x, edges)),
        (arrays.bin_encode, (x, uneven)),
        (arrays.bin_decode, (codes, edges)),
    ):
        np.testing.assert_array_equal(function(*map(moved, given)), function(*given))
