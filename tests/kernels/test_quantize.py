"""Quantization against its float64 definition, the reference numbers, and every awkward input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.kernels import (
    bin_decode,
    bin_encode,
    finite_scalar_quantize,
    nearest_code,
    use_backend,
    vector_quantize,
)
from fusion.kernels.quantize import code_decode, code_statistics, reference

nan, inf = math.nan, math.inf
LEVELS = [[8, 5, 5, 5], [8, 8, 8, 6, 5], [7, 5, 5, 5, 5], [3, 5, 4]]

pytestmark = pytest.mark.usefixtures("seeded")


def excess(x: torch.Tensor, codebook: torch.Tensor, codes: torch.Tensor) -> float:
    """How much farther than the nearest code the chosen one is, squared, relative to the spread of x; float64."""
    x, codebook = x.double(), codebook.double()
    distance = torch.cdist(x, codebook, compute_mode="donot_use_mm_for_euclid_dist").square()
    chosen = distance.gather(1, codes[:, None])[:, 0]
    return float((chosen - distance.min(1).values).max() / (x - x.mean(0)).square().sum(1).mean().clamp_min(1e-30))


def grid(rows: int, columns: int, function: str, a: float, b: float) -> torch.Tensor:
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    return getattr(torch, function)(a * i + b * j)


# ------------------------------------------------------------------------------------------- reference numbers


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize(("form", "key"), [("tanh", "google_research_notebook"), ("sigmoid", "terramind_sigmoid")])
def test_finite_scalars_match_the_papers_code(golden, case, form, key):
    expected = golden("quantize_and_context")["scalar_and_lookup_free"]["fsq"]["cases"][case]
    z = 3 * grid(32, len(expected["levels"]), "sin", 0.1, 0.7)
    quantized, codes = finite_scalar_quantize(z, expected["levels"], form=form)
    assert codes.tolist() == expected[key]["indices"]
    torch.testing.assert_close(quantized[:3], torch.tensor(expected[key]["codes_first3"]), atol=1e-6, rtol=0)


def test_finite_scalar_gradient_matches_the_papers_code(golden):
    expected = golden("quantize_and_context")["scalar_and_lookup_free"]["fsq"]["grad"]
    z = (3 * grid(32, 4, "sin", 0.1, 0.7)).requires_grad_()
    quantized, _ = finite_scalar_quantize(z, expected["levels"])
    (quantized * torch.arange(1, 5)).sum().backward()
    # The numbers come from a variant that squashes with 1 + 1e-3 where the paper has 1 - 1e-3.
    torch.testing.assert_close(z.grad[:3], torch.tensor(expected["dz_rows_0_1_2"]), atol=4e-3, rtol=0)


def test_look_up_and_rotation_match_the_original(golden):
    expected = golden("quantize_and_context")["vector_quantization"]["vq"]
    codebook, x = grid(16, 4, "sin", 1.3, 0.9), grid(32, 4, "cos", 0.37, 0.5).requires_grad_()
    assert nearest_code(x, codebook).tolist() == expected["indices"]
    assert nearest_code(x, codebook, metric="cosine").tolist() == expected["cosine_indices"]
    quantized, _, commitment = vector_quantize(x, codebook, gradient="rotation")
    assert commitment.item() == pytest.approx(expected["ema_step"]["commit_loss"], abs=1e-6)
    (quantized * torch.arange(1, 5)).sum().backward()
    rotation = expected["rotation_trick"]
    torch.testing.assert_close(quantized[:2], torch.tensor(rotation["out_rows_0_1"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.grad[:2], torch.tensor(rotation["grad_rows_0_1"]), atol=1e-5, rtol=0)


# ------------------------------------------------------------------------------------------------ nearest code


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize(("rows", "size", "dim"), [(1000, 300, 7), (1, 1, 1), (5, 1, 3), (3, 50, 2), (257, 65, 33)])
def test_finds_the_nearest(backend, metric, rows, size, dim):
    generator = torch.Generator().manual_seed(rows + size)
    x = torch.randn(rows, dim, generator=generator)
    codebook = torch.randn(size, dim, generator=generator)
    codes = nearest_code(x, codebook, metric=metric)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, reference.nearest_code(x.double(), codebook.double(), metric=metric))


@pytest.mark.parametrize("offset", [0.0, 100.0, 1e4, -1e4])
def test_large_offsets_do_not_blur_the_neighbours(backend, offset):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4000, 16, generator=generator) + offset
    codebook = torch.randn(256, 16, generator=generator) + offset
    assert excess(x, codebook, nearest_code(x, codebook)) < 1e-6


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("size", [1e-30, 1e-19, 1.0, 1e19, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_large_nor_small_numbers_blur_the_neighbours(metric, size, dtype):
    generator = torch.Generator().manual_seed(3)
    x, codebook = (torch.randn(n, 16, generator=generator, dtype=dtype) for n in (500, 37))
    want = nearest_code(x, codebook, metric=metric)
    power = 2.0 ** round(math.log2(size))  # which changes no digit
    if dtype == torch.float64 and metric == "l2":
        power **= 8
    for name in ("cpp", "eager"):
        with use_backend(name):
            assert torch.equal(nearest_code(x * power, codebook * power, metric=metric), want)
    assert torch.equal(want, reference.nearest_code(x.double(), codebook.double(), metric=metric))


def test_ties_go_to_the_lowest_index(backend):
    generator = torch.Generator().manual_seed(0)
    once = torch.randn(37, 19, generator=generator)
    codes = nearest_code(torch.randn(500, 19, generator=generator), once.repeat(5, 1))
    assert int(codes.max()) < 37
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)))
    assert nearest_code(torch.full((4, 3), 0.5), corners).tolist() == [0] * 4
    assert nearest_code(torch.full((4, 3), 1000.5), corners + 1000).tolist() == [0] * 4
    assert nearest_code(torch.zeros(2, 3), corners, metric="cosine").tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_float_dtype(dtype):
    x, codebook = torch.randn(300, 24).to(dtype), torch.randn(128, 24).to(dtype)
    assert torch.equal(nearest_code(x, codebook), reference.nearest_code(x.double(), codebook.double()))
    quantized, codes, _ = vector_quantize(x, codebook)
    assert quantized.dtype == dtype
    assert torch.equal(quantized, codebook[codes])


def test_missing_and_infinite_vectors(backend):
    x = torch.randn(6, 3)
    x[0], x[1, 1], x[2, 0], x[3] = nan, inf, nan, -inf
    codebook = torch.randn(40, 3)
    codes = nearest_code(x, codebook)
    assert codes[:4].tolist() == [-1, 0, -1, 0]
    assert torch.equal(codes[4:], reference.nearest_code(x[4:], codebook))
    x.requires_grad_()
    quantized, _, commitment = vector_quantize(x, codebook, gradient="rotation")
    assert quantized[[0, 2]].isnan().all()
    assert torch.equal(quantized[[1, 3, 4, 5]], codebook[codes[[1, 3, 4, 5]]])
    (quantized[codes >= 0].sum() + commitment).backward()
    assert (x.grad[:4] == 0).all()
    assert (x.grad[4:] != 0).any()
    assert commitment.item() == pytest.approx((x - quantized)[4:].square().mean().item())


def test_nothing_observed(backend):
    quantized, codes, commitment = vector_quantize(torch.full((2, 5, 3), nan), torch.randn(4, 3))
    assert quantized.isnan().all()
    assert (codes == -1).all()
    assert commitment.isnan()  # a mean of nothing; 0 would be the best there is, of a model that diverged
    quantized, codes, commitment = vector_quantize(torch.empty(0, 3), torch.randn(4, 3))
    assert quantized.shape == (0, 3)
    assert codes.shape == (0,)
    assert float(commitment) == 0


def test_shapes_and_strides(backend):
    base = torch.randn(6, 40, 5)
    codebook = torch.randn(5, 70).T
    for x in (base[..., :4].permute(2, 1, 0)[:, :, :5].contiguous(), base[:, ::3], base.transpose(0, 1), base[0, 0]):
        expected = reference.nearest_code(x.reshape(-1, 5).double(), codebook.double()).reshape(x.shape[:-1])
        assert torch.equal(nearest_code(x, codebook), expected)


def test_permuted_rows_permute_codes(backend):
    x, codebook, order = torch.randn(777, 12), torch.randn(90, 12), torch.randperm(777)
    assert torch.equal(nearest_code(x[order], codebook), nearest_code(x, codebook)[order])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 40),
    size=st.integers(1, 70),
    dim=st.integers(1, 20),
    offset=st.sampled_from([0.0, 273.15, -1e4]),
    metric=st.sampled_from(["l2", "cosine"]),
    seed=st.integers(0, 2**31),
)
def test_codes_are_always_in_range_and_nearest(rows, size, dim, offset, metric, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator) + offset
    codebook = torch.randn(size, dim, generator=generator) + offset
    codes = nearest_code(x, codebook, metric=metric)
    assert ((codes >= 0) & (codes < size)).all()
    if rows and metric == "l2":
        assert excess(x, codebook, codes) < 1e-5


# ---------------------------------------------------------------------------------------------- vector quantize


@pytest.mark.parametrize("gradient", ["straight-through", "rotation"])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_gradients_match_the_definition(backend, gradient, metric):
    x, codebook = torch.randn(50, 6), torch.randn(9, 6)
    x[7] = 0
    weight = torch.randn(50, 6)
    results = []
    for function, dtype in ((vector_quantize, torch.float32), (reference.vector_quantize, torch.float64)):
        y = x.to(dtype, copy=True).requires_grad_()
        quantized, codes, commitment = function(y, codebook.to(dtype), metric=metric, gradient=gradient)
        ((quantized * weight).sum() + 3 * commitment).backward()
        results.append((quantized.detach().double(), codes, commitment.detach().double(), y.grad.double()))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)


def test_quantized_is_the_code_bit_for_bit():
    x, codebook = torch.randn(400, 8), torch.randn(30, 8)
    for gradient in ("straight-through", "rotation"):
        quantized, codes, _ = vector_quantize(x, codebook, gradient=gradient)
        assert torch.equal(quantized, codebook[codes])


def test_statistics_count_and_sum(backend):
    x, codes = torch.randn(3, 500, 6), torch.randint(-1, 20, (3, 500))
    x[0, :3] = inf
    x[1, :3] = nan
    counts, sums = code_statistics(x, codes, 22)
    expected = reference.code_statistics(x.double().reshape(-1, 6), codes.reshape(-1), 22)
    assert torch.equal(counts.double(), expected[0])
    torch.testing.assert_close(sums.double(), expected[1], atol=1e-4, rtol=1e-5)
    for again, first in zip(code_statistics(x, codes, 22), (counts, sums), strict=True):
        assert torch.equal(again, first)


# ----------------------------------------------------------------------------------------------- finite scalars


@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
@pytest.mark.parametrize("levels", LEVELS)
def test_finite_scalars_match_the_definition(backend, form, levels):
    z = 4 * torch.randn(2000, len(levels))
    z[0], z[1], z[2, 0] = inf, -inf, nan
    bound, _, _ = reference.finite_scalar_bound(z.double(), levels, form)
    near_a_border = ((bound - bound.floor() - 0.5).abs() < 1e-5).any(-1)  # float32 may round the other way there
    quantized, codes = finite_scalar_quantize(z, levels, form=form)
    expected, expected_codes = reference.finite_scalar_quantize(z.double(), levels, form=form)
    assert torch.equal(codes[~near_a_border], expected_codes[~near_a_border])
    torch.testing.assert_close(
        quantized[~near_a_border].double(), expected[~near_a_border], atol=1e-6, rtol=0, equal_nan=True
    )
    assert codes[2] == -1
    assert quantized[2].isnan().all()


@pytest.mark.parametrize("form", ["tanh", "sigmoid"])
def test_finite_scalar_gradients_match_the_definition(backend, form):
    z, weight = 2 * torch.randn(64, 4), torch.randn(64, 4)
    grads = []
    for function, dtype in ((finite_scalar_quantize, torch.float32), (reference.finite_scalar_quantize, torch.float64)):
        y = z.to(dtype, copy=True).requires_grad_()
        (function(y, [8, 5, 5, 2], form=form)[0] * weight).sum().backward()
        grads.append(y.grad.double())
    torch.testing.assert_close(*grads, atol=2e-6, rtol=1e-5)


def test_many_levels_count_in_int64():
    levels = [8] * 12
    z = 4 * torch.randn(500, 12)
    _, codes = finite_scalar_quantize(z, levels)
    _, expected = reference.finite_scalar_quantize(z.double(), levels)
    assert torch.equal(codes, expected)
    assert int(codes.max()) > 2**32


def test_bfloat16_indices_are_exact():
    z = (4 * torch.randn(2000, 5)).bfloat16()
    quantized, codes = finite_scalar_quantize(z, [8, 8, 8, 6, 5])
    assert quantized.dtype == torch.bfloat16
    assert torch.equal(codes, finite_scalar_quantize(z.float(), [8, 8, 8, 6, 5])[1])


# --------------------------------------------------------------------------------------------------------- bins


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", ["uniform", "random", "one", "offset"])
def test_bins_match_the_definition(backend, dtype, kind):
    generator = torch.Generator().manual_seed(0)
    edges = {
        "uniform": torch.linspace(-3, 3, 258),
        "random": torch.randn(101, generator=generator).sort().values,
        "one": torch.tensor([0.0, 1.0]),
        "offset": torch.linspace(101300, 101350, 1025, dtype=torch.float64),
    }[kind]
    low, high = float(edges[0]), float(edges[-1])
    values = (low + (high - low) * (1.2 * torch.rand(3, 7, 333, generator=generator) - 0.1)).to(dtype)
    values[0, 0, :5] = torch.tensor([nan, inf, -inf, 0.0, -0.0]).to(dtype)
    values[1, 1, : min(333, edges.numel())] = edges[:333].to(dtype)  # on the edge
    values[1, 2, : min(333, edges.numel())] = torch.nextafter(edges, torch.full_like(edges, -inf))[:333].to(dtype)
    codes = bin_encode(values, edges)
    assert torch.equal(codes, reference.bin_encode(values.double(), edges.double()))


def test_bins_of_a_strided_view_and_of_nothing(backend):
    values, edges = torch.randn(64, 33), torch.linspace(-1, 1, 11)
    assert torch.equal(bin_encode(values.T[::2], edges), reference.bin_encode(values.T[::2], edges))
    assert bin_encode(torch.empty(0, 4), edges).shape == (0, 4)
    assert bin_encode(torch.tensor(0.05), edges).tolist() == 5


def test_decode_is_a_look_up_with_nan_for_missing(backend):
    centres = torch.randn(9)
    codes = torch.randint(-1, 9, (4, 50))
    values = bin_decode(codes, centres)
    assert torch.equal(values.isnan(), codes == -1)
    assert torch.equal(values[codes >= 0], centres[codes[codes >= 0]])
    torch.testing.assert_close(bin_decode(codes.int().T, centres), values.T, equal_nan=True, atol=0, rtol=0)
    vectors = code_decode(codes, torch.randn(9, 3))
    assert vectors.shape == (4, 50, 3)


@settings(max_examples=40, deadline=None)
@given(
    bins=st.integers(1, 300),
    low=st.floats(-1e4, 1e4),
    width=st.floats(1e-2, 1e4),
    seed=st.integers(0, 2**31),
)
def test_a_round_trip_stays_within_half_a_bin(bins, low, width, seed):
    edges = torch.linspace(low, low + width, bins + 1, dtype=torch.float64)
    values = low + width * torch.rand(50, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    codes = bin_encode(values, edges)
    assert ((codes >= 0) & (codes < bins)).all()
    centres = (edges[1:] + edges[:-1]) / 2
    assert (bin_decode(codes, centres) - values).abs().max() <= width / bins / 2 * (1 + 1e-6)
