"""Cases of quantization for the Triton kernels: the same on a GPU and, smaller, in Triton's interpreter.

Every case is a function of device and dtype that raises where the backend in use errs against the float64 definition.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from fusion.kernels import bin_decode, bin_encode, finite_scalar_quantize, nearest_code, vector_quantize
from fusion.kernels.quantize import code_decode, code_statistics, reference

__all__ = ["CASES", "DTYPES", "check_any_order", "check_any_unit", "check_nearest", "normal"]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CASES: dict[str, Callable[[str, torch.dtype], None]] = {}
nan, inf = math.nan, math.inf


def case(name: str) -> Callable[[Callable[[str, torch.dtype], None]], Callable[[str, torch.dtype], None]]:
    def add(function: Callable[[str, torch.dtype], None]) -> Callable[[str, torch.dtype], None]:
        CASES[name] = function
        return function

    return add


def normal(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers for every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def check_nearest(x: Tensor, codebook: Tensor, metric: str = "l2") -> Tensor:
    """The codes, which are in range, the same again, and no farther than the nearest by more than float32 rounds."""
    codes = nearest_code(x, codebook, metric=metric)
    assert codes.dtype == torch.int64
    assert torch.equal(codes, nearest_code(x, codebook, metric=metric))
    if len(codes) == 0:
        return codes
    assert int(codes.min()) >= 0
    assert int(codes.max()) < len(codebook)
    wide, book = x.double(), codebook.double()
    if metric == "cosine":
        wide, book = (torch.nn.functional.normalize(t, dim=1, eps=1e-300) for t in (wide, book))
    chosen = (wide - book[codes]).square().sum(1)
    least = torch.cat(
        [torch.cdist(part, book, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for part in wide.split(512)]
    )
    # float32 rounds products of such lengths: of a vector, for l2 from the codes' mean, and a code from there.
    code = chosen.sqrt() + (wide - book.mean(0)).norm(dim=1)
    vector = 1 if metric == "cosine" else code
    assert ((chosen - least.square()) <= 2.0**-20 * vector * code).all()
    return codes


SMALL = [(33, 70, 5), (17, 1, 3), (16, 2, 40), (5, 50, 17), (1, 16, 16), (0, 4, 4)]
LARGE = [*SMALL, (5001, 700, 64), (777, 33, 5), (64, 1025, 256), (3000, 16_384, 32), (130, 300, 1024), (200, 90, 130)]


def _of_all_sizes(metric: str) -> Callable[[str, torch.dtype], None]:
    def run(device: str, dtype: torch.dtype) -> None:
        for rows, size, dim in SMALL if device == "cpu" else LARGE:
            x, codebook = normal(rows, dim).to(device, dtype), normal(size, dim, seed=1).to(device, dtype)
            codes = check_nearest(x, codebook, metric)
            if rows and rows * size * dim < 1e8:
                assert (
                    codes != reference.nearest_code(x.double(), codebook.double(), metric=metric)
                ).sum() <= rows // 1000

    return run


CASES["nearest"] = _of_all_sizes("l2")
CASES["nearest direction"] = _of_all_sizes("cosine")


@case("nearest, offset")
def _(device: str, dtype: torch.dtype) -> None:
    """A common offset, of thousands of spreads where the type has room for it."""
    offset, spread = (1e4, 1.0) if dtype == torch.float32 else (2.0, 0.1)
    for metric in ("l2", "cosine"):
        x, codebook = ((offset + spread * normal(40, 16, seed=s)).to(device, dtype) for s in (0, 1))
        check_nearest(x, codebook, metric)


@case("nearest, codes that float32 tells apart")
def _(device: str, dtype: torch.dtype) -> None:
    """Pairs of codes that differ by 2^-12 of their length: half a unit of bfloat16, four of products in float32."""
    x = normal(32, 24).to(device, dtype)
    codebook = normal(20, 24, seed=1)
    codebook = torch.cat([codebook, codebook * (1 + 2.0**-12 * normal(20, 24, seed=2))]).to(device)
    codes = check_nearest(x, codebook)
    assert torch.equal(codes, reference.nearest_code(x.double(), codebook.double()))


@case("nearest, wide range")
def _(device: str, dtype: torch.dtype) -> None:
    """Values whose differences float16 cannot hold, vectors far apart in length, one code far out."""
    largest = 6e4 if dtype == torch.float16 else 1e12
    x, codebook = normal(40, 8).clamp(-2, 2) * largest / 2, normal(50, 8, seed=1).clamp(-2, 2) * largest / 2
    x[1::3] *= 1e-3
    x[2::3] *= 1e-6
    check_nearest(x.to(device, dtype), codebook.to(device, dtype))
    codebook = normal(50, 8, seed=2)
    codebook[7] *= 1e4
    check_nearest(normal(40, 8).to(device, dtype), codebook.to(device, dtype))


@case("nearest, vectors and codes of other magnitudes")
def _(device: str, dtype: torch.dtype) -> None:
    """Neither squares that leave float32, nor vectors that the distance to a code cannot tell from it or from 0."""
    sizes = (2.0**-10, 1.0, 2.0**10) if dtype == torch.float16 else (1e-30, 1e-19, 1.0, 1e19)
    for size, of_code in itertools.product(sizes, sizes):
        x, codebook = (size * normal(40, 8)).to(device, dtype), (of_code * normal(70, 8, seed=1)).to(device, dtype)
        wide, book = x.double(), codebook.double()
        scores = wide @ book.T - book.square().sum(1) / 2  # greatest where the distance is least, also by far
        found = scores.gather(1, nearest_code(x, codebook)[:, None])[:, 0]
        rounding = 2.0**-20 * book.norm(dim=1).amax() * (wide.norm(dim=1) + book.norm(dim=1).amax())
        assert (scores.amax(1) - found <= rounding).all(), (size, of_code)


def check_any_unit(device: str, dtype: torch.dtype) -> None:
    """The search does not depend on the unit, also where squares of distances leave float32."""
    x, codebook = normal(40, 8).to(device, dtype), normal(70, 8, seed=1).to(device, dtype)
    for metric in ("l2", "cosine"):
        expected = nearest_code(x, codebook, metric=metric)
        for unit in (2.0**-10,) if dtype == torch.float16 else (2.0**-112, 2.0**-70, 2.0**63, 2.0**120):
            assert torch.equal(nearest_code(x * unit, codebook * unit, metric=metric), expected), (metric, unit)


@case("nearest, ties")
def _(device: str, dtype: torch.dtype) -> None:
    once = normal(10, 8).to(device, dtype)
    for metric in ("l2", "cosine"):
        assert int(nearest_code(normal(40, 8, seed=1).to(device, dtype), once.repeat(9, 1), metric=metric).max()) < 10
    corners = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).to(device, dtype)
    assert nearest_code(torch.full_like(corners, 0.5), corners).tolist() == [0] * 8
    assert nearest_code(torch.zeros_like(corners), corners, metric="cosine").tolist() == [0] * 8
    assert nearest_code(torch.full_like(corners, 64.5), corners + 64).tolist() == [0] * 8
    same = once[:1].repeat(70, 1)
    assert nearest_code(normal(20, 8).to(device, dtype), same).tolist() == [0] * 20


@case("nearest, missing and strided")
def _(device: str, dtype: torch.dtype) -> None:
    x, codebook = normal(20, 42).to(device, dtype)[:, 1:41:2], normal(20, 30).to(device, dtype).T
    x[0, 3], x[1, 7], x[2, 0], x[2, 1] = nan, inf, -inf, nan
    codes = nearest_code(x, codebook)
    assert codes[:3].tolist() == [-1, 0, -1]
    check_nearest(x[3:], codebook)
    rows = normal(30, 20).to(device, dtype)[::3]
    check_nearest(rows, codebook)
    assert nearest_code(rows[0], codebook).shape == ()


@case("nearest, the codebook changes")
def _(device: str, dtype: torch.dtype) -> None:
    """What was prepared for a codebook is not used for the next one in the same memory."""
    x, codebook = normal(30, 6).to(device, dtype), normal(20, 6, seed=1).to(device, dtype)
    for seed in (2, 3):
        check_nearest(x, codebook)
        codebook.copy_(normal(20, 6, seed=seed))
    check_nearest(x, codebook[::2])


@case("vectors and their gradients")
def _(device: str, dtype: torch.dtype) -> None:
    for gradient, rows, dim in itertools.product(("straight-through", "rotation"), (50, 0), (6, 33)):
        x, codebook = normal(rows, dim).to(dtype), normal(9, dim, seed=1).to(dtype)
        if rows:
            x[0], x[1, 1], x[2], x[3, 0] = 0, nan, -inf, inf
        weight, results = normal(rows, dim, seed=2).to(dtype), []
        for function, to in ((vector_quantize, (device, dtype)), (reference.vector_quantize, ("cpu", torch.float64))):
            y = x.to(*to, copy=True).requires_grad_()
            quantized, codes, commitment = function(y, codebook.to(*to), gradient=gradient)
            ((quantized * weight.to(*to))[codes >= 0].sum() + 3 * commitment.to(to[1])).backward()
            results.append([t.detach().cpu().double() for t in (quantized, codes, commitment, y.grad)])
        ours, expected = results
        tolerance = {"atol": 2e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 3e-2, "rtol": 2e-2}
        assert torch.equal(ours[1], expected[1])
        known = expected[1] >= 0
        assert torch.equal(ours[0][known], codebook.double()[expected[1][known].long()])
        assert ours[0][~known].isnan().all()
        finite = x.isfinite().all(1)
        torch.testing.assert_close(ours[2], expected[2], atol=1e-6, rtol=2e-3 if dtype != torch.float32 else 1e-5)
        torch.testing.assert_close(ours[3][finite], expected[3][finite], **tolerance)
        assert (ours[3][~finite] == 0).all()


@case("statistics")
def _(device: str, dtype: torch.dtype) -> None:
    for rows, dim, size in (
        (100, 33, 20),
        (0, 3, 4),
        (7, 1, 1),
        (40, 5, 300),
        *([(50_000, 33, 200)] if device != "cpu" else []),
    ):
        for crowd in (1, size):  # into one code
            x = normal(rows, dim)
            x[::100], x[1::100, 0] = nan, inf
            x = x.to(device, dtype)
            codes = torch.randint(-1, size, (rows,), generator=torch.Generator().manual_seed(0)).to(device) // crowd
            counts, sums = code_statistics(x, codes, size)
            expected = reference.code_statistics(x.double(), codes, size)
            assert torch.equal(counts.double(), expected[0])
            torch.testing.assert_close(sums.double(), expected[1], atol=1e-5 * max(1, rows) ** 0.5, rtol=1e-6)


def check_any_order(device: str, dtype: torch.dtype) -> None:
    """Statistics in fixed point are the same bits whatever order the rows come in."""
    x, codes = normal(300, 5).to(device, dtype), torch.arange(300).to(device) % 7
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1)).to(device)
    for one, other in zip(code_statistics(x, codes, 7), code_statistics(x[order], codes[order], 7), strict=True):
        assert torch.equal(one, other)


@case("finite scalars")
def _(device: str, dtype: torch.dtype) -> None:
    for levels, form, rows in itertools.product(
        ([8, 8, 8, 6, 5], [2], [3] * 39, [1001, 4]), ("tanh", "sigmoid"), (60, 0)
    ):
        z = 4 * normal(2, rows // 2, len(levels))
        if rows:
            z[0, 0], z[0, 1], z[1, 3, -1] = inf, -inf, nan
        z = z.to(device, dtype)
        if rows == 0:
            assert finite_scalar_quantize(z, levels, form=form)[1].shape == z.shape[:-1]
            continue
        bound, _, _ = reference.finite_scalar_bound(z.double(), levels, form)
        clear = ((bound - bound.floor() - 0.5).abs() > 1e-6 * max(levels)).all(-1)  # float32 may round the other way
        z.requires_grad_()
        quantized, codes = finite_scalar_quantize(z, levels, form=form)
        expected, expected_codes = reference.finite_scalar_quantize(z.detach().double(), levels, form=form)
        assert torch.equal(codes[clear], expected_codes[clear])
        assert codes[1, 3] == -1
        torch.testing.assert_close(quantized[clear], expected[clear].to(dtype), equal_nan=True)
        weight = normal(*z.shape, seed=1).to(device, dtype)
        (quantized * weight)[codes >= 0].sum().backward()
        y = z.detach().double().requires_grad_()
        (reference.finite_scalar_quantize(y, levels, form=form)[0] * weight.double())[codes >= 0].sum().backward()
        exact = {"atol": 1e-5, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 1e-5, "rtol": 1e-2}
        torch.testing.assert_close(z.grad[codes >= 0].double(), y.grad[codes >= 0], **exact)
        assert (z.grad[1, 3] == 0).all()


@case("bins")
def _(device: str, dtype: torch.dtype) -> None:
    kinds = {
        "uniform": torch.linspace(-3, 3, 258),
        "random": normal(101).sort().values,
        "one": torch.tensor([0.0, 1.0]),
        "two": torch.tensor([0.0, 0.5, 1.0]),
        "three": torch.tensor([-1.0, 0.0, 0.5, 1.0]),
        "offset": torch.linspace(101300, 101350, 1025, dtype=torch.float64),
        "unbounded": torch.cat([torch.tensor([-inf]), torch.linspace(-1, 1, 64), torch.tensor([inf])]),
        "narrow": torch.linspace(-1, 1, 33).to(torch.bfloat16),
        "between float32": 1 + torch.arange(9, dtype=torch.float64) * 2.0**-25,
        "around zero": torch.tensor([-1.0, -1e-46, 1e-46, 1.0], dtype=torch.float64),
    }
    for (kind, edges), count in itertools.product(kinds.items(), (300, 7, 0)):
        low, high = (
            float(edges[1:-1].min()) if len(edges) > 2 else 0.0,
            float(edges[1:-1].max()) if len(edges) > 2 else 1.0,
        )
        generator = torch.Generator().manual_seed(0)
        values = low + (high - low) * (1.2 * torch.rand(3, count, generator=generator, dtype=torch.float64) - 0.1)
        if count:
            values[0, :5] = torch.tensor([nan, inf, -inf, 0.0, -0.0])
            near = edges[:count].double()
            values[1, : len(near)] = near  # on the edges
            values[2, : len(near)] = torch.nextafter(near.float(), torch.tensor(-inf)).double()
        values, edges = values.to(device, dtype), edges.to(device)
        codes = bin_encode(values, edges)
        assert torch.equal(codes, reference.bin_encode(values.double(), edges.double())), kind
        assert torch.equal(bin_encode(values.T, edges), codes.T), kind
        strided = torch.stack([edges, edges], 1)[:, 0]
        assert torch.equal(bin_encode(values, strided), codes), kind


@case("decoding")
def _(device: str, dtype: torch.dtype) -> None:
    for count, size, dim in itertools.product((70, 0), (9, 1), (0, 1, 40)):
        codes = torch.randint(-1, size, (2, count), generator=torch.Generator().manual_seed(0)).to(device)
        centres = normal(size, dim) if dim else normal(size)
        for given in (centres.to(device, dtype), centres.to(device).double()):
            decode = code_decode if dim else bin_decode
            values = decode(codes, given)
            assert values.dtype == given.dtype
            known = codes >= 0
            assert torch.equal(values[known], given[codes[known]])
            assert values[~known].isnan().all()
            assert torch.equal(decode(codes.int().T, given).isnan(), values.transpose(0, 1).isnan())
            if device != "cpu" and count:  # on a GPU nothing waits to tell what is out of range
                assert decode(torch.full_like(codes, size), given).isnan().all()
    centres = normal(9).to(device, dtype).requires_grad_()
    codes = torch.randint(-1, 9, (200,), generator=torch.Generator().manual_seed(0)).to(device)
    weight = normal(200, seed=3).to(device, dtype)
    (bin_decode(codes, centres) * weight)[codes >= 0].sum().backward()
    _, expected = reference.code_statistics(weight.double()[:, None], codes, 9)
    torch.testing.assert_close(centres.grad, expected[:, 0].to(dtype), atol=1e-5, rtol=1e-2)
