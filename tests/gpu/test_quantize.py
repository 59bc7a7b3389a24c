"""Quantization on a GPU against the float64 definition: Triton, CUDA C++ and eager, the three alike."""

from __future__ import annotations

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)

from fusion.kernels import bin_decode, bin_encode, finite_scalar_quantize, nearest_code, use_backend, vector_quantize
from fusion.kernels.quantize import MuLaw, QuantileBins, UniformBins, VectorQuantizer, code_decode, code_statistics

from ..kernels.quantize_cases import CASES, DTYPES, check_any_order, check_any_unit, check_nearest, normal

LEVELS = [8, 8, 8, 6, 5]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", ["triton", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_is_what_is_defined(case, backend, dtype):
    with use_backend(backend):
        CASES[case]("cuda", dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_bins_in_cuda_sources(dtype):
    with use_backend("cuda"):
        CASES["bins"]("cuda", dtype)


NAMES = (
    *("nearest_code", "nearest_code, cosine", "straight-through", "rotation", "code_statistics", "tanh", "sigmoid"),
    *("bin_encode", "bin_decode"),
)


def operations(dtype: torch.dtype) -> dict:
    """Every operator with its gradient, on ragged sizes, as functions of no argument that give tensors."""
    x, codebook = normal(5003, 24).to("cuda", dtype), normal(700, 24, seed=1).to("cuda", dtype)
    codes = torch.randint(-1, 700, (5003,), generator=torch.Generator().manual_seed(0)).cuda()
    edges, centres = torch.linspace(-3, 3, 258).cuda(), normal(700).to("cuda", dtype)
    uneven = normal(257).sort().values.cuda()
    z = normal(5003, 5).to("cuda", dtype)
    y, scalar = x.clone().requires_grad_(), z.clone().requires_grad_()

    def rows(gradient):
        quantized, _, commitment = vector_quantize(y, codebook, gradient=gradient)
        return quantized, commitment, *torch.autograd.grad(quantized.float().square().sum() + commitment, y)

    def scalars(form):
        quantized, code = finite_scalar_quantize(scalar, LEVELS, form=form)
        return quantized, code, *torch.autograd.grad(quantized.float().square().sum(), scalar)

    return {
        "nearest_code": lambda: (nearest_code(x, codebook),),
        "nearest_code, cosine": lambda: (nearest_code(x, codebook, metric="cosine"),),
        "straight-through": lambda: rows("straight-through"),
        "rotation": lambda: rows("rotation"),
        "code_statistics": lambda: code_statistics(x, codes, 700),
        "tanh": lambda: scalars("tanh"),
        "sigmoid": lambda: scalars("sigmoid"),
        "bin_encode": lambda: (bin_encode(x, edges), bin_encode(x, uneven)),
        "bin_decode": lambda: (bin_decode(codes, centres), code_decode(codes, codebook)),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_runs_in_triton_with_the_same_bits_every_time(name, dtype):
    run = operations(dtype)[name]
    with use_backend("triton"):
        first = [t.clone() for t in run()]
        for _ in range(20):
            for again, expected in zip(run(), first, strict=True):
                assert torch.equal(again.nan_to_num(-7), expected.nan_to_num(-7))


@pytest.mark.parametrize("name", NAMES)
def test_a_cuda_graph_replays_it(name):
    run = operations(torch.float32)[name]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    # Not on the default stream, and detached: a graph that lives on keeps its leaves' gradients on the stream it was
    # made on, which no capture may wait for.
    with torch.cuda.stream(stream):
        expected = [t.detach().clone() for t in run()]
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = run()
    with torch.no_grad():
        for result in results:
            result.detach().zero_()
    graph.replay()
    for result, first in zip(results, expected, strict=True):
        assert torch.equal(result.nan_to_num(-7), first.nan_to_num(-7))


def test_a_graph_sees_that_the_codebook_changed():
    x, codebook = normal(500, 8).cuda(), normal(90, 8, seed=1).cuda()
    nearest_code(x, codebook)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        codes = nearest_code(x, codebook)
    codebook.copy_(normal(90, 8, seed=2))
    graph.replay()
    assert torch.equal(codes, nearest_code(x, codebook))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_do_not_depend_on_the_order(dtype):
    with use_backend("triton"):
        check_any_order("cuda", dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_search_does_not_depend_on_the_unit(dtype):
    with use_backend("triton"):
        check_any_unit("cuda", dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_large_codebook(dtype):
    x, codebook = normal(20_000, 32).to("cuda", dtype), normal(16_384, 32, seed=1).to("cuda", dtype)
    with use_backend("triton"):
        check_nearest(x, codebook)
        check_nearest(x, codebook, "cosine")


def test_modules_and_tokenizers_move_to_the_gpu():
    x = torch.randn(20_000, 16, device="cuda")
    quantizer = VectorQuantizer(16, 128, restart_below=1.0).cuda().train()
    first = quantizer(x)[2]
    for _ in range(50):
        loss = quantizer(x)[2]
    assert loss < first
    series = torch.randn(50, 2, 100, device="cuda")
    for make in (lambda: UniformBins(64), lambda: QuantileBins(64), lambda: MuLaw(63)):
        tokenizer, on_cpu = make().cuda().fit(series), make()
        on_cpu.load_state_dict(tokenizer.state_dict())
        codes = tokenizer.encode(series).cpu()
        differing = int((codes != on_cpu.encode(series.cpu())).sum())
        assert differing <= (2 if isinstance(tokenizer, MuLaw) else 0)  # its logarithms differ in the last bit
        torch.testing.assert_close(tokenizer.decode(codes.cuda()).cpu(), on_cpu.decode(codes), atol=1e-6, rtol=1e-6)


def test_no_matrix_of_distances_in_memory():
    x, codebook = torch.randn(1 << 20, 32, device="cuda"), torch.randn(4096, 32, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    vector_quantize(x, codebook)
    assert torch.cuda.max_memory_allocated() - before < 3 * x.numel() * 4  # the distances would be 128 times x
