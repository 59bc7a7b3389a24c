"""The contract around relative-position attention: torch's machinery, refusals, the module, memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fusion.kernels import RelativeAttention, euclidean_buckets, relative_attention
from fusion.kernels.attention import reference, registration

from .attention_random import Case

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
        (dict(query=torch.zeros(2, 3, 37, 16).long()), TypeError, "query must be floating point .*got torch.int64"),
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
    """Forward and backward of 1,729 tokens, half of a PASTIS-HD tile: 64 MiB beyond inputs, output and gradients,
    where one map of the logits has 182 MiB."""
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
    print(run(24))
"""
    # One heap, and every tensor a mapping of its own: else what is kept for reuse counts, 20 to 64 MiB by chance.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(
        [sys.executable, "-c", program, backend], capture_output=True, text=True, timeout=240, env=environment
    )
    assert run.returncode == 0, run.stderr
    extra = int(run.stdout)
    assert 0 < extra <= 64 << 10, f"{extra >> 10} MiB"
