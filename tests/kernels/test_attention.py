"""Relative-position attention: every backend against the float64 definition, and the contract around it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fusion.kernels import RelativeAttention, backends, euclidean_buckets, relative_attention, use_backend
from fusion.kernels.attention import reference, registration
from fusion.kernels.attention.dropout import keep_mask

HALF = (torch.bfloat16, torch.float16)


def _backends() -> list[str]:
    """Those for the CPU; test_attention_interpreted.py has the GPU kernels."""
    rows = [row for row in backends() if row["op"] == "relative_attention"]
    return [row["backend"] for row in rows if row["available"] == "yes" and row["backend"] in ("cpp", "eager")]


@pytest.fixture(params=_backends())
def backend(request: pytest.FixtureRequest):
    with use_backend(request.param):
        yield request.param


@dataclass
class Case:
    """Random inputs in float64 for one call."""

    batch: int = 2
    heads: int = 3
    queries: int = 37
    keys: int = 37
    dim: int = 16
    buckets: int = 8
    mode: str = "contextual"
    shared: bool = True
    masked: bool = False
    dropout: float = 0.0
    broadcast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)
        size = (1 if self.shared else self.heads, self.dim, self.buckets)
        self.table = self._normal(*(size if self.mode == "contextual" else size[::2]))
        self.query = self._normal(1 if self.broadcast else self.batch, self.heads, self.queries, self.dim)
        self.key = self._normal(self.batch, self.heads, self.keys, self.dim)
        self.value = self._normal(self.batch, self.heads, self.keys, self.dim)
        self.grad_output = self._normal(self.batch, self.heads, self.queries, self.dim)
        positions = max(self.queries, self.keys)
        # Neighbouring positions share buckets, most pairs the last one, as on a grid.
        distance = (torch.arange(positions)[:, None] - torch.arange(positions)).abs()
        self.bucket = distance.clamp(max=self.buckets - 1)
        self.positions = {
            "query_position": torch.randint(positions, (self.queries,), generator=self.generator),
            "key_position": torch.arange(self.keys) % max(1, self.keys // 2),  # two modalities share positions
        }
        self.key_valid = None
        if self.masked:
            self.key_valid = torch.rand(self.batch, self.keys, generator=self.generator) > 0.4
            self.key_valid[0], self.key_valid[-1] = True, False

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def run(self, dtype: torch.dtype, attention=relative_attention) -> dict[str, Tensor]:
        """Output and gradients; half precision keeps a float32 table, as parameters do."""
        inputs = [t.detach().to(dtype).requires_grad_() for t in (self.query, self.key, self.value)]
        table = self.table.detach().to(torch.float32 if dtype in HALF else dtype).requires_grad_()
        torch.manual_seed(self.seed)
        arguments = dict(table=table, bucket=self.bucket, mode=self.mode, key_valid=self.key_valid)
        arguments["dropout_p"] = self.dropout
        output = attention(*inputs, **arguments, **self.positions)
        output.backward(self.grad_output.to(dtype))
        names = ("query", "key", "value", "table")
        return {"output": output.detach()} | {n: t.grad for n, t in zip(names, (*inputs, table), strict=True)}

    def check(self, dtype: torch.dtype, slack: float = 2.0) -> None:
        """At most ``slack`` times the root mean square error of plain PyTorch in the same dtype.

        Of a gradient that is zero because terms cancel, plain PyTorch may hit the zero exactly: there the bound is
        a few units in the last place of the terms.
        """
        exact = self.run(torch.float64, reference.relative_attention)
        plain = self.run(dtype, reference.relative_attention)
        got = self.run(dtype)
        for name, want in exact.items():
            assert got[name].shape == want.shape
            error, allowed = (float((r[name].double() - want).square().mean().sqrt()) for r in (got, plain))
            if want.abs().max() < 1e-6:
                allowed = 2 * torch.finfo(dtype).eps
            assert error <= slack * allowed, f"{name}: {error:.2e} against {allowed:.2e}"


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


@pytest.mark.skipif("cpp" not in _backends(), reason="no compiled CPU backend")
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


# ---------------------------------------------------------------- torch's machinery


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_opcheck(dtype, masked):
    case = Case(2, 2, 5, 7, 4, masked=masked, dropout=0.1 if masked else 0.0)
    tensors = [t.to(dtype) for t in (case.query, case.key, case.value)]
    seed = torch.tensor([3]) if masked else None
    rest = (case.bucket, *case.positions.values(), case.key_valid, seed, case.dropout, 0.5)
    inputs = (*(t.requires_grad_() for t in tensors), case.table.float().requires_grad_(), *rest)
    torch.library.opcheck(registration.attend, inputs)
    with torch.no_grad():
        results = registration.attend(*inputs)
        checks = ("test_schema", "test_faketensor")
        torch.library.opcheck(
            registration._attend_backward, (torch.ones_like(results[0]), *results, *inputs), test_utils=checks
        )


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(compiler):
    torch.manual_seed(0)
    layer = RelativeAttention(32, 4, euclidean_buckets(3, 3))
    torch.nn.init.normal_(layer.table)
    compiled = torch.compile(layer, fullgraph=True, backend=compiler)
    tokens, valid = torch.randn(2, 10, 32), torch.rand(2, 10) > 0.2
    for call in (layer, compiled):
        layer.zero_grad()
        output = call(tokens, valid=valid)
        output.square().sum().backward()
        if call is layer:
            expected = output.detach(), layer.table.grad.clone()
    torch.testing.assert_close(output, expected[0])
    torch.testing.assert_close(layer.table.grad, expected[1])


def test_autocast_computes_in_its_dtype_with_float32_parameters():
    layer = RelativeAttention(32, 4, euclidean_buckets(3, 3))
    torch.nn.init.normal_(layer.table)
    tokens = torch.randn(2, 10, 32)
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(tokens)
        mixed = relative_attention(
            tokens[:, None], tokens[:, None].bfloat16(), tokens[:, None], table=torch.zeros(1, 8), bucket=layer.bucket,
            mode="bias",
        )  # fmt: skip
    assert output.dtype == mixed.dtype == torch.bfloat16
    output.float().sum().backward()
    assert layer.table.grad.dtype == torch.float32
    torch.testing.assert_close(output.float(), layer(tokens), atol=0.03, rtol=0.03)


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


# ---------------------------------------------------------------- refusals


def _call(case: Case, **changes):
    names = ("query", "key", "value", "table")
    arguments = {name: getattr(case, name).float() for name in names} | {"bucket": case.bucket}
    return relative_attention(**(arguments | case.positions | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (dict(mode="product"), ValueError, "'product'.*'contextual', 'bias'"),
        (dict(dropout_p=1.0), ValueError, r"dropout_p=1.0.*\[0, 1\)"),
        (dict(query=torch.zeros(3, 3, 5, 16)), ValueError, r"\(3, 3, 5, 16\).*batch 1 or 2"),
        (dict(query=torch.zeros(5, 16)), ValueError, r"\(B, H, Lq, D\).*\(5, 16\)"),
        (dict(table=torch.zeros(2, 16, 8)), ValueError, r"\(1 or 3, 16, K\), got \(2, 16, 8\)"),
        (dict(mode="bias"), ValueError, r"\(1 or 3, K\)"),
        (dict(bucket=torch.zeros(37, 36).long()), ValueError, r"\(S, S\).*\(37, 36\)"),
        (dict(key_position=None, bucket=torch.zeros(5, 5).long()), ValueError, "37 key tokens.*covers 5 positions"),
        (dict(query_position=torch.zeros(3).long()), ValueError, r"\(37,\).*got \(3,\)"),
        (dict(key_valid=torch.ones(2, 3, dtype=torch.bool)), ValueError, r"\(2, 37\), got \(2, 3\)"),
        (dict(key_valid=torch.ones(2, 37)), TypeError, "float32.*must be bool"),
        (dict(bucket=torch.zeros(37, 37)), TypeError, "bucket is torch.float32.*integers"),
        (dict(value=torch.zeros(2, 3, 37, 16).half()), TypeError, "differ in dtype.*float32.*float16"),
        (dict(query=torch.zeros(2, 3, 37, 16).long()), TypeError, "query is torch.int64"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_numbers(changes, error, message):
    with pytest.raises(error, match=f"relative_attention: .*{message}"):
        _call(Case(), **changes)


@pytest.mark.parametrize("value", [-1, 8])
@pytest.mark.parametrize("where", ["bucket", "query_position", "key_position"])
def test_values_out_of_range_are_refused_before_they_are_used(backend, where, value):
    case = Case()
    index = getattr(case, where, None)
    index = case.positions[where] if index is None else index
    bad = value if where == "bucket" or value < 0 else 37
    _call(case)  # a table once seen is not scanned again, unless it changed
    index[-1] = bad
    with pytest.raises(ValueError, match=rf"{where} holds {bad}, outside 0\.\.\d+"):
        _call(Case(), **{where: index})


# ---------------------------------------------------------------- module, memory


def test_module_is_its_parts():
    """Self- and cross-attention against the definition, with patches of two modalities at the same positions."""
    torch.manual_seed(0)
    bucket, position = euclidean_buckets(2, 2), torch.tensor([0, 1, 2, 3, 4, 1, 2, 3, 4])
    tokens = torch.randn(3, 9, 24)
    layer = RelativeAttention(24, 3, bucket, shared=False)
    torch.nn.init.normal_(layer.table)
    query, key, value = (t.unflatten(-1, (3, 8)).transpose(1, 2) for t in layer.project_in(tokens).chunk(3, -1))
    options = dict(table=layer.table, bucket=bucket, query_position=position, key_position=position, scale=8**-0.5)
    expected = reference.relative_attention(query, key, value, **options).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(tokens, key_position=position), layer.project_out(expected))

    cross = RelativeAttention(24, 3, bucket, cross=True)
    queries = torch.randn(1, 5, 24, requires_grad=True)
    output = cross(tokens, query=queries, key_position=position)
    assert output.shape == (3, 5, 24)
    output.sum().backward()
    assert queries.grad.shape == queries.shape
    assert set(layer.state_dict()) == {
        "table",
        "project_in.weight",
        "project_in.bias",
        "project_out.weight",
        "project_out.bias",
    }
    with pytest.raises(ValueError, match="query is missing"):
        cross(tokens)
    with pytest.raises(ValueError, match="multiple of heads=5"):
        RelativeAttention(24, 5, bucket)


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux measures it")
def test_memory_stays_within_its_bound(backend):
    """Forward and backward at the size of a PASTIS-HD tile: 64 MiB beyond inputs, output and gradients, where one
    map of the logits has 576 MiB."""
    program = """
import ctypes, re, sys, torch
from pathlib import Path
from fusion.kernels import euclidean_buckets, relative_attention, use_backend

def status(field):
    return int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def run(side):
    position = torch.cat([torch.zeros(1, dtype=torch.long), (1 + torch.arange(side * side)).repeat(3)])
    query, key, value = (torch.randn(1, 16, len(position), 16, requires_grad=True) for _ in range(3))
    table = torch.randn(1, 16, 8, requires_grad=True)
    options = dict(table=table, bucket=euclidean_buckets(side, side), query_position=position, key_position=position)
    ctypes.CDLL(None).malloc_trim(0)  # what was freed counts again
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    output = relative_attention(query, key, value, **options)
    output.backward(torch.ones_like(output))
    return status("VmHWM") - before - (5 * query.nbytes >> 10)

torch.set_num_threads(2)
with use_backend(sys.argv[1]):
    run(6)  # loads the library
    print(run(32))
"""
    run = subprocess.run([sys.executable, "-c", program, backend], capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stderr
    extra = int(run.stdout)
    assert 0 < extra <= 64 << 10, f"{extra >> 10} MiB"
