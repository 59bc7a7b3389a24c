"""More than 2^31 elements, or as far apart: index arithmetic in 64 bits, in every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fusion.kernels import (
    bin_encode,
    euclidean_buckets,
    finite_scalar_quantize,
    nearest_code,
    relative_attention,
    use_backend,
    vector_quantize,
)
from fusion.kernels.attention import registration as attention
from fusion.kernels.attention.inputs import Inputs
from fusion.kernels.infonce import registration as infonce
from fusion.kernels.infonce.inputs import Inputs as Tokens
from fusion.kernels.quantize import code_statistics
from fusion.kernels.quantize import registration as quantize

from .interpreted import interpreting, run_interpreted

FAR = 2**31 + 64  # elements from one row to the next


if not interpreting():

    @pytest.mark.slow
    def test_kernels_in_the_interpreter(pytestconfig: pytest.Config) -> None:
        run_interpreted(__file__, pytestconfig)


@pytest.fixture(scope="module")
def spread() -> Tensor:
    """5 rows of 16 numbers, each FAR from the one before: of this memory only the rows' own pages are ever touched."""
    try:
        rows = torch.empty(4 * FAR + 16, dtype=torch.bfloat16).as_strided((5, 16), (FAR, 1))
    except RuntimeError:
        pytest.skip("no 16 GiB of address space")
    return rows.copy_(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))


def test_rows_far_apart_are_quantized_as_rows_side_by_side(backend: str, spread: Tensor) -> None:
    codebook = spread[[3, 1, 4]].float()
    near = spread.clone(memory_format=torch.contiguous_format)
    for gradient in ("straight-through", "rotation"):
        results = []
        for x in (spread, near):
            x = x.detach().requires_grad_()
            quantized, codes, commitment = vector_quantize(x, codebook, gradient=gradient)
            (dx,) = torch.autograd.grad(quantized.float().square().sum() + commitment, x)
            results.append((quantized, codes, commitment, dx, *code_statistics(x, codes, 3)))
        for found, want in zip(*results, strict=True):
            assert torch.equal(found, want)
    assert nearest_code(spread, codebook)[[3, 1, 4]].tolist() == [0, 1, 2]
    assert torch.equal(finite_scalar_quantize(spread, [3] * 16)[1], finite_scalar_quantize(near, [3] * 16)[1])
    assert torch.equal(bin_encode(spread, torch.linspace(-1, 1, 5)), bin_encode(near, torch.linspace(-1, 1, 5)))


def test_tokens_far_apart_are_attended_to_as_tokens_side_by_side(backend: str, spread: Tensor) -> None:
    table, bucket = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(1)), euclidean_buckets(2, 2)
    results = []
    for x in (spread, spread.clone(memory_format=torch.contiguous_format)):
        x = x[None, None].detach().requires_grad_()
        output = relative_attention(x, x, x, table=table, bucket=bucket)
        results.append((output, *torch.autograd.grad(output.float().square().sum(), x)))
    for found, want in zip(*results, strict=True):
        assert torch.equal(found, want)


@pytest.mark.extra
def test_two_to_the_31_numbers_are_quantized() -> None:
    rows, dim = 70_000, 31_000  # 4 GiB in bfloat16
    x = torch.zeros(rows, dim, dtype=torch.bfloat16)
    x[-1], x[-2, -1] = 1, 3
    codebook = torch.stack([torch.zeros(dim), torch.ones(dim)])
    with use_backend("cpp"):
        quantized, codes, commitment = vector_quantize(x, codebook)
    assert codes.sum() == 1
    assert codes[-1] == 1
    assert (quantized[-1] == 1).all()
    assert (quantized[-2] == 0).all()
    torch.testing.assert_close(commitment, torch.tensor(9 / (rows * dim)))


def _vast(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros((), dtype=dtype).expand(shape)


def test_what_triton_would_number_in_32_bits_is_refused_with_the_numbers() -> None:
    query = _vast(2**12, 2**4, 2**11, 16)
    bucket = torch.zeros(2, 2, dtype=torch.int64)
    x = Inputs(query, query, query, _vast(1, 16, 1), bucket, None, None, None, None, 0.0, 1.0)
    assert "134217728 queries of all heads and tiles exceed" in str(attention._triton_refuses(x))
    label = _vast(2**25, dtype=torch.int32)
    assert "33554432 rows exceed" in str(
        infonce._triton_refuses(Tokens(_vast(2**25, 8), label, label, label, None, None, 0.1))
    )
    refused = quantize._refuses_statistics(_vast(8, 2**12), torch.zeros(8).long(), 2**19)
    assert "524288 codes of 4096 values exceed" in str(refused)
