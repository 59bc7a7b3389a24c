"""Dates pooled by attention: every backend against the definition in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fusion.kernels import pool_dates, use_backend
from fusion.kernels.backends import chosen

Arguments = dict[str, Any]

# tiles, patches, dates, channels, heads, groups; channels that fill vectors and that do not
SIZES = {
    "one of all": (1, 1, 1, 4, 1, 1),
    "small": (2, 3, 5, 16, 2, 2),
    "wide": (3, 7, 12, 128, 8, 8),
    "ragged": (2, 5, 13, 40, 4, 5),
    "other groups": (2, 2, 37, 24, 3, 2),
    "groups of one": (2, 2, 9, 6, 3, 6),
    "many dates": (1, 2, 300, 32, 16, 4),
}


def arguments(
    size: str, *, masked: bool = True, bias: bool = True, norm: bool = True, dtype: torch.dtype = torch.float32
) -> Arguments:
    tiles, patches, dates, dim, heads, groups = SIZES[size]
    rng = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    given: Arguments = {
        "values": (0.5 + random(tiles, patches, dates, dim)).to(dtype),
        "query": random(heads, dim) / math.sqrt(dim),
        "offset": random(tiles, dates, heads),
        "positions": random(tiles, dates, dim // heads),
        "groups": groups,
    }
    if masked:
        given["valid"] = torch.rand(tiles, dates, generator=rng) > 0.3
        given["valid"][-1, -1] = True
    if bias:
        given["bias"] = random(dim)
    if norm:
        given["norm"] = (1 + 0.3 * random(dim), random(dim))
    return given


def in_float64(given: Arguments) -> Arguments:
    def exact(one: Any) -> Any:
        return one.double() if isinstance(one, Tensor) and one.is_floating_point() else one

    return {k: tuple(map(exact, v)) if isinstance(v, tuple) else exact(v) for k, v in given.items()}


def by_plain(given: Arguments) -> tuple[Tensor, Tensor]:
    with use_backend("eager"):
        return pool_dates(**given)


def distance(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> float:
    return max(float((a.double() - b).abs().max()) for a, b in zip(found, exact, strict=True))


@pytest.fixture(params=["cpp", "eager"])
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("masked", [False, True], ids=["every date", "some dates"])
@pytest.mark.parametrize(("bias", "norm"), [(True, True), (False, True), (True, False), (False, False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_errors_are_those_of_plain_pytorch(size, masked, bias, norm, dtype, backend):
    given = arguments(size, masked=masked, bias=bias, norm=norm, dtype=dtype)
    exact, plain = by_plain(in_float64(given)), by_plain(given)
    found = pool_dates(**given)
    assert chosen()["pool_dates"] == backend
    assert [t.dtype for t in found] == [torch.float32] * 2
    assert distance(found, exact) <= 2 * distance(plain, exact) + 1e-6


def test_the_definition_is_attention_over_normalised_dates():
    """Against torch's own group norm and softmax, where every date is valid."""
    given = in_float64(arguments("wide", masked=False))
    x = (given["values"] + given["bias"]).relu()  # (B, P, L, D)
    rows = x.flatten(0, 1).mT  # (B*P, D, L)
    normal = torch.nn.functional.group_norm(rows, given["groups"], *given["norm"], eps=1e-5).mT.view(x.shape)
    attention = (normal @ given["query"].T + given["offset"][:, None]).softmax(2)
    heads = given["query"].shape[0]
    moved = normal.unflatten(-1, (heads, -1)) + given["positions"][:, None, :, None]
    pooled = (attention.unsqueeze(-1) * moved).sum(2).flatten(2)
    torch.testing.assert_close(by_plain(given), (pooled, attention))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_dtypes_without_a_compiled_form_are_left_to_pytorch(dtype):
    given = arguments("small")
    given["values"] = given["values"].to(dtype)
    if dtype == torch.float64:
        given = in_float64(given)
    found = pool_dates(**given)
    assert chosen()["pool_dates"] == "eager"
    assert found[0].dtype == torch.promote_types(dtype, torch.float32)


def test_a_tile_without_a_valid_date_is_zero(backend):
    given = arguments("small")
    given["valid"][0] = False
    pooled, attention = pool_dates(**given)
    assert pooled[0].eq(0).all()
    assert attention[0].eq(0).all()
    assert attention[1].sum(1) == pytest.approx(torch.ones(3, 2))
    assert pooled[1].ne(0).all()


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_what_dates_that_are_not_valid_hold_plays_no_part(poison, backend):
    given = arguments("wide")
    expected = pool_dates(**given)
    given["values"] = given["values"].masked_fill(~given["valid"][:, None, :, None], poison)
    for found, wanted in zip(pool_dates(**given), expected, strict=True):
        assert torch.equal(found, wanted)


def test_a_value_that_is_no_number_stays_in_its_patch(backend):
    given = arguments("small", masked=False)
    given["values"][0, 1, 2, 3] = math.nan
    pooled, attention = pool_dates(**given)
    assert pooled[0, 1].isnan().all()
    assert attention[0, 1].isnan().all()
    pooled[0, 1], attention[0, 1] = 0, 0
    assert pooled.isfinite().all()
    assert attention.isfinite().all()


@pytest.mark.parametrize("empty", [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_nothing_gives_nothing(empty, backend):
    tiles, patches, dates = empty
    pooled, attention = pool_dates(
        torch.ones(*empty, 8), torch.ones(2, 8), torch.ones(tiles, dates, 2), torch.ones(tiles, dates, 4)
    )
    assert pooled.shape == (tiles, patches, 8)
    assert attention.shape == (*empty, 2)
    assert pooled.eq(0).all()


def test_arguments_may_be_views(backend):
    given = arguments("wide")
    expected = pool_dates(**given)
    views = {k: v.mT.contiguous().mT for k, v in given.items() if isinstance(v, Tensor) and v.ndim > 1}
    assert not views["values"].is_contiguous()
    for found, wanted in zip(pool_dates(**given | views), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_results_do_not_depend_on_the_number_of_threads():
    given, threads = arguments("wide"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = pool_dates(**given)
        torch.set_num_threads(3)
        assert all(map(torch.equal, pool_dates(**given), one))
    finally:
        torch.set_num_threads(threads)


def test_a_gradient_is_that_of_plain_pytorch():
    given = in_float64(arguments("small"))
    names = [k for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()]
    leaves = [given[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(lambda *x: pool_dates(**given | dict(zip(names, x, strict=True))), leaves)
    with torch.no_grad():
        assert not pool_dates(**given)[0].requires_grad


@pytest.mark.parametrize("size", ["small", "ragged"])
def test_the_operator_is_what_torch_expects_of_one(size):
    given = arguments(size)
    weight, shift = given["norm"]
    args = (given["values"], given["bias"], given["valid"], weight, shift, given["groups"], 1e-5)
    torch.library.opcheck(
        torch.ops.fusion.pool_dates.default, (*args, *(given[k] for k in ("query", "offset", "positions")))
    )


def test_it_compiles_as_one_graph():
    given = arguments("small")
    compiled = torch.compile(
        lambda values: pool_dates(**given | {"values": values})[0], fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(given["values"]), pool_dates(**given)[0])


def test_autocast_changes_nothing():
    given = arguments("small")
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_dates(**given)
    assert all(map(torch.equal, found, pool_dates(**given)))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"values": torch.ones(2, 3, 16)}, r"values \(2, 3, 16\), want \(B, P, L, D\)"),
        ({"query": torch.ones(3, 16)}, r"query \(3, 16\), want \(H, 16\) with H a divisor of 16"),
        ({"query": torch.ones(2, 15)}, r"query \(2, 15\), want \(H, 16\)"),
        ({"groups": 3}, "groups=3 do not divide 16 channels"),
        ({"offset": torch.ones(2, 5, 3)}, r"offset \(2, 5, 3\), want \(2, 5, 2\)"),
        ({"positions": torch.ones(2, 5, 16)}, r"positions \(2, 5, 16\), want \(2, 5, 8\)"),
        ({"valid": torch.ones(2, 4, dtype=torch.bool)}, r"valid \(2, 4\), want \(2, 5\)"),
        ({"valid": torch.ones(2, 5)}, "valid is bool, not torch.float32"),
        ({"bias": torch.ones(8)}, r"bias \(8,\), want \(16,\)"),
        ({"norm": (torch.ones(16), torch.ones(8))}, r"norm bias \(8,\), want \(16,\)"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_shapes(change, told):
    with pytest.raises(ValueError, match=f"pool_dates: {told}"):
        pool_dates(**arguments("small") | change)


def test_numbers_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="values must be floating point"):
        pool_dates(**arguments("small") | {"values": torch.ones(2, 3, 5, 16, dtype=torch.int64)})
