"""Quantization on a GPU against the float64 definition: Triton, CUDA C++ and eager, the three alike."""

from __future__ import annotations

import math

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.kernels import bin_decode, bin_encode, finite_scalar_quantize, nearest_code, use_backend, vector_quantize
from fusion.kernels.quantize import QuantileBins, UniformBins, VectorQuantizer, code_statistics, reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(params=["cuda", "eager"])
def compiled(request):
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("backend", ["triton", "eager"])
@pytest.mark.parametrize(("rows", "size", "dim"), [(5000, 700, 64), (777, 33, 5), (129, 1, 3), (64, 1025, 256)])
def test_nearest_code(dtype, metric, backend, rows, size, dim):
    x, codebook = torch.randn(rows, dim, device="cuda").to(dtype), torch.randn(size, dim, device="cuda").to(dtype)
    x[0, 0] = math.nan
    x[1, 1] = math.inf
    with use_backend(backend):
        codes = nearest_code(x, codebook, metric=metric)
        assert torch.equal(codes, nearest_code(x, codebook, metric=metric))
    expected = reference.nearest_code(x.double(), codebook.double(), metric)
    assert torch.equal(codes[:2], expected[:2])
    if metric == "l2":  # another choice is as good where float64 alone tells two codes apart
        distance = torch.cdist(x[2:].double(), codebook.double()).square()
        chosen = distance.gather(1, codes[2:, None])[:, 0]
        assert ((chosen - distance.min(1).values) / chosen.clamp_min(1e-30)).max() < 1e-4
    assert (codes != expected).float().mean() < 2e-3


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_ties_and_offsets(dtype):
    codebook = torch.randn(40, 16, device="cuda").to(dtype).repeat(5, 1)
    assert int(nearest_code(torch.randn(999, 16, device="cuda").to(dtype), codebook).max()) < 40
    x, codebook = torch.randn(2000, 16, device="cuda") + 1e4, torch.randn(300, 16, device="cuda") + 1e4
    assert torch.equal(nearest_code(x, codebook), reference.nearest_code(x.double(), codebook.double()))


@pytest.mark.parametrize("dtype", DTYPES[:2])
@pytest.mark.parametrize("skew", [1, 50])
def test_statistics(compiled, dtype, skew):
    x = torch.randn(50_000, 33, device="cuda").to(dtype)
    x[::100] = math.nan
    codes = torch.randint(-1, 200, (50_000,), device="cuda") // skew
    counts, sums = code_statistics(x, codes, 200)
    expected = reference.code_statistics(x.double(), codes, 200)
    assert torch.equal(counts.double(), expected[0])
    torch.testing.assert_close(sums.double(), expected[1], atol=2e-3, rtol=1e-5)
    for again, first in zip(code_statistics(x, codes, 200), (counts, sums), strict=True):
        assert torch.equal(again, first)


@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_finite_scalars(compiled, form, dtype):
    levels = [8, 8, 8, 6, 5]
    z = (4 * torch.randn(5000, 5, device="cuda")).to(dtype)
    z[0], z[1], z[2, 3] = math.inf, -math.inf, math.nan
    bound, _, _ = reference.finite_scalar_bound(z.double(), levels, form)
    clear = ((bound - bound.floor() - 0.5).abs() > 1e-5).all(-1)
    z.requires_grad_()
    quantized, codes = finite_scalar_quantize(z, levels, form=form)
    expected, expected_codes = reference.finite_scalar_quantize(z.detach().double(), levels, form)
    assert torch.equal(codes[clear], expected_codes[clear])
    torch.testing.assert_close(quantized[clear], expected[clear].to(dtype), equal_nan=True)
    weight = torch.randn(5000, 5, device="cuda").to(dtype)
    quantized[3:].mul(weight[3:]).sum().backward()
    y = z.detach().double().requires_grad_()
    reference.finite_scalar_quantize(y, levels, form)[0][3:].mul(weight[3:]).sum().backward()
    torch.testing.assert_close(
        z.grad[3:], y.grad[3:].to(dtype), atol=1e-5, rtol=1e-2 if dtype != torch.float32 else 1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["uniform", "random", "one", "two"])
def test_bins(compiled, dtype, kind):
    edges = {
        "uniform": torch.linspace(-3, 3, 258),
        "random": torch.randn(101).sort().values,
        "one": torch.tensor([0.0, 1.0]),
        "two": torch.tensor([0.0, 0.5, 1.0]),
    }[kind].cuda()
    values = (2 * torch.randn(7, 10_001, device="cuda")).to(dtype)
    values[0, :3] = torch.tensor([math.nan, math.inf, -math.inf])
    values[1, : min(257, edges.numel())] = edges[:257].to(dtype)
    codes = bin_encode(values, edges)
    assert torch.equal(codes, reference.bin_encode(values.double(), edges.double()))
    centres = torch.randn(edges.numel() - 1, device="cuda")
    with use_backend("auto"):
        assert torch.equal(bin_decode(codes, centres).isnan(), codes < 0)


def test_modules_and_tokenizers_move_to_the_gpu():
    x = torch.randn(20_000, 16, device="cuda")
    quantizer = VectorQuantizer(16, 128, restart_below=1.0).cuda().train()
    first = quantizer(x)[2]
    for _ in range(50):
        loss = quantizer(x)[2]
    assert loss < first
    series = torch.randn(50, 2, 100, device="cuda")
    for tokenizer in (UniformBins(64).cuda().fit(series), QuantileBins(64).cuda().fit(series)):
        on_cpu = type(tokenizer)(64)
        on_cpu.load_state_dict(tokenizer.state_dict())
        assert torch.equal(tokenizer.encode(series).cpu(), on_cpu.encode(series.cpu()))


def test_no_matrix_of_distances_in_memory():
    x, codebook = torch.randn(1 << 20, 32, device="cuda"), torch.randn(4096, 32, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    vector_quantize(x, codebook)
    assert torch.cuda.max_memory_allocated() - before < 12 * x.numel() * 4  # the distances would be 128 times x
