"""Relative-position attention: every backend against the float64 definition."""

from __future__ import annotations

import pytest
import torch

from fusion.kernels import euclidean_buckets, relative_attention, use_backend
from fusion.kernels.attention import reference
from fusion.kernels.attention.dropout import keep_mask
from fusion.kernels.backends import unavailable

from .attention_random import Case

CASES = {
    "one-token": Case(heads=1, queries=1, keys=1),
    "self": Case(batch=1, heads=2),
    "cross": Case(heads=1, queries=37, keys=73, broadcast=True, masked=True),
    "bias": Case(batch=1, heads=2, queries=40, keys=65, mode="bias", shared=False),
    "bias-shared-masked": Case(heads=1, queries=20, keys=90, dim=13, mode="bias", masked=True, buckets=16),
    "per-head": Case(batch=1, heads=2, queries=20, keys=90, dim=13, shared=False, buckets=13),
    "dropout": Case(heads=1, queries=33, keys=67, dropout=0.3, masked=True, dim=24),
    "dropout-bias": Case(batch=1, queries=16, keys=16, dropout=0.1, mode="bias", dim=8),
    "two-buckets": Case(queries=17, keys=33, buckets=2, dim=33, batch=1, heads=1),
    "one-bucket": Case(batch=1, queries=5, keys=9, buckets=1),
}
LONG = {
    "masked": Case(queries=21, keys=109, masked=True),
    "201": Case(batch=1, queries=201, keys=201),
    "many-heads": Case(batch=40, heads=16, queries=37, keys=37),
    "long-rows": Case(batch=1, heads=1, queries=1025, keys=301, dropout=0.1),
    "wide-head": Case(batch=1, heads=2, queries=70, keys=150, dim=64),
    "49-buckets": Case(queries=33, keys=65, dim=40, buckets=49, masked=True, dropout=0.2),
    "1024-buckets": Case(batch=1, heads=2, queries=60, keys=1100, buckets=1024, shared=False),
    "1024-buckets-bias": Case(queries=60, keys=1100, buckets=1024, mode="bias"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_definition(backend, name, dtype):
    if backend == "cpp" and dtype == torch.float16:
        pytest.skip("the CPU kernels do not take float16")
    CASES[name].check(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LONG)
def test_agrees_with_the_definition_at_length(backend, name, dtype):
    LONG[name].check(dtype)


@pytest.mark.parametrize("grid", [(8, 8), (2, 3)])
def test_agrees_on_a_grid(backend, grid):
    """Far blocks, near blocks and class tokens in one map, positions shared by two modalities; on the small grid
    another bucket is the most frequent one."""
    patches = grid[0] * grid[1]
    case = Case(batch=1, heads=1, queries=1 + 2 * patches, keys=1 + 2 * patches)
    case.bucket = euclidean_buckets(*grid)
    position = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(2 * patches) % patches])
    case.positions = {"query_position": position, "key_position": position}
    case.check(torch.float32)


def test_row_without_a_valid_key_gives_zeros_and_no_gradient(backend):
    case = Case(heads=1, masked=True)
    results = case.run(torch.float32)
    assert results["output"][-1].abs().max() == 0
    assert results["query"][-1].abs().max() == 0
    for name in ("key", "value"):
        assert results[name][-1].abs().max() == 0
        assert results[name].transpose(1, 2)[~case.key_valid].abs().max() == 0


def test_same_bits_every_time(backend):
    case = Case(queries=50, keys=70, dropout=0.2, masked=True)
    first, second = case.run(torch.float32), case.run(torch.float32)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.skipif(unavailable("cpp") is not None, reason="no compiled CPU backend")
def test_same_bits_for_any_number_of_threads():
    case, threads = Case(batch=1, heads=2, queries=300, keys=300, dropout=0.2), torch.get_num_threads()
    try:
        results = []
        for count in (1, 3):
            torch.set_num_threads(count)
            with use_backend("cpp"):
                results.append(case.run(torch.float32))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("mode", ["contextual", "bias"])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(mode, dropout, shared):
    case = Case(2, 2, 4, 6, 3, buckets=4, mode=mode, shared=shared, masked=True, dropout=dropout, broadcast=shared)

    def run(query, key, value, table):
        torch.manual_seed(0)
        options = dict(mode=mode, key_valid=case.key_valid, dropout_p=dropout, **case.positions)
        return relative_attention(query, key, value, table=table, bucket=case.bucket, **options)

    inputs = [t.requires_grad_() for t in (case.query, case.key, case.value, case.table)]
    assert torch.autograd.gradcheck(run, inputs)


def test_second_derivative_is_refused():
    case = Case(1, 1, 3, 3, 2)
    output = relative_attention(case.query.requires_grad_(), case.key, case.value, table=case.table, bucket=case.bucket)
    (gradient,) = torch.autograd.grad(output.sum(), case.query, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        gradient.sum().backward()


# ---------------------------------------------------------------- dropout


def test_dropout_follows_the_seed(backend):
    case = Case(dropout=0.5)
    first, again = case.run(torch.float32)["output"], case.run(torch.float32)["output"]
    case.seed = 1
    other = case.run(torch.float32)["output"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("p", [0.1, 0.2, 0.7])
def test_dropout_mask_is_fair(p):
    """Shares of kept weights overall, by row and by key, and neighbours that do not know of each other."""
    rows, keys = 2000, 500
    kept = keep_mask(torch.tensor([123456789]), torch.arange(rows), keys, p).double()
    deviation = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 4 * deviation / (rows * keys) ** 0.5
    assert (kept.mean(1) - (1 - p)).abs().max() < 5 * deviation / keys**0.5
    assert (kept.mean(0) - (1 - p)).abs().max() < 5 * deviation / rows**0.5
    centred = (kept - (1 - p)) / deviation
    for pair in (centred[1:] * centred[:-1], centred[:, 1:] * centred[:, :-1], centred[1:, 1:] * centred[:-1, :-1]):
        assert abs(pair.mean()) < 4 / pair.numel() ** 0.5
    other = keep_mask(torch.tensor([123456790]), torch.arange(rows), keys, p).double()
    assert abs((centred * (other - (1 - p)) / deviation).mean()) < 4 / (rows * keys) ** 0.5


def test_dropout_keeps_the_mean(backend):
    """Averaged over seeds, attention with dropout is attention without."""
    case = Case(batch=64, heads=8, queries=9, keys=12, dim=8)
    for name in ("query", "key", "value"):
        setattr(case, name, getattr(case, name)[:1, :1].expand(64, 8, -1, -1))
    plain = case.run(torch.float32)["output"][0, 0]
    case.dropout = 0.3
    dropped = case.run(torch.float32)["output"]
    error = dropped.mean((0, 1)) - plain
    assert error.abs().max() < 5 * dropped.std((0, 1)).max() / (64 * 8) ** 0.5


# ---------------------------------------------------------------- awkward inputs


def test_strided_inputs_give_the_same_bits(backend):
    case = Case(queries=20, keys=20)
    expected = case.run(torch.float32)
    case.query = case.query.transpose(2, 3).contiguous().transpose(2, 3)  # last stride is not 1
    case.key = case.key.transpose(1, 2).contiguous().transpose(1, 2)
    case.value = case.value.flip(0).flip(0)[..., None].expand(-1, -1, -1, -1, 2)[..., 0]
    got = case.run(torch.float32)
    assert all(torch.equal(got[name], expected[name]) for name in got)


@pytest.mark.parametrize("sizes", [(0, 3, 4), (2, 0, 4), (2, 3, 0)])
def test_empty(backend, sizes):
    batch, queries, keys = sizes
    results = Case(batch, 2, queries, keys, 8, buckets=4).run(torch.float32)
    assert results["output"].shape == (batch, 2, queries, 8)
    assert all(r.numel() == 0 or r.abs().max() == 0 for r in results.values())


def test_output_merges_heads_without_a_copy(backend):
    output = Case().run(torch.float32)["output"]
    assert output.transpose(1, 2).flatten(2).data_ptr() == output.data_ptr()


def test_nan_is_not_hidden(backend):
    case = Case(1, 1, 4, 40)
    case.query[0, 0, 1, 0] = float("nan")
    output = case.run(torch.float32)["output"][0, 0]
    assert output[1].isnan().all()
    assert torch.isfinite(output[[0, 2, 3]]).all()


def test_large_logits_do_not_overflow(backend):
    case = Case(1, 1, 8, 40)
    case.query *= 60
    exact, got = case.run(torch.float64, reference.relative_attention), case.run(torch.float32)
    for name, want in exact.items():
        torch.testing.assert_close(got[name].double(), want, rtol=1e-3, atol=1e-3 * float(want.abs().max()))
