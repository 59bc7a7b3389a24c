"""The contract around quantization: memory, threads, torch's machinery, complaints."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.library import opcheck

from fusion.kernels import (
    bin_decode,
    bin_encode,
    finite_scalar_quantize,
    nearest_code,
    vector_quantize,
)
from fusion.kernels.quantize import code_decode, code_statistics

nan = math.nan

pytestmark = pytest.mark.usefixtures("seeded")


# -------------------------------------------------------------------------------------------- memory and threads

PEAK = """
import re, sys, torch
from pathlib import Path
from fusion.kernels import nearest_code, use_backend, vector_quantize

def kilobytes(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

x, codebook = torch.randn(32_768, 64), torch.randn(8192, 64)  # the distances would be 1 GiB
with use_backend(sys.argv[1]):
    vector_quantize(x[:64], codebook)  # libraries and thread pools
    before = kilobytes("VmRSS")
    codes = nearest_code(x, codebook)
print(max(0, kilobytes("VmHWM") - before) >> 10)
"""


@pytest.mark.parametrize("name", ["eager", "cpp"])
def test_a_look_up_holds_no_distances(name):
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak memory from /proc")
    done = subprocess.run([sys.executable, "-c", PEAK, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) <= 48  # MiB


def test_the_number_of_threads_changes_no_bit():
    x, codebook = torch.randn(5000, 24), torch.randn(300, 24)
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        quantized, codes, commitment = vector_quantize(x, codebook)
        results.append((quantized, codes, commitment, *code_statistics(x, codes, 300)))
    torch.set_num_threads(before)
    for others in results[1:]:
        for a, b in zip(others, results[0], strict=True):
            assert torch.equal(a, b)


# ---------------------------------------------------------------------------------------------- torch's contract


def test_operators_pass_opcheck():
    ops = torch.ops.fusion
    x, codebook = torch.randn(20, 3), torch.randn(5, 3)
    opcheck(ops.nearest_code.default, (x, codebook, "l2"))
    codes = nearest_code(x, codebook)
    for gradient in ("straight-through", "rotation"):
        opcheck(ops.quantize_rows.default, (x.clone().requires_grad_(), codebook, codes, gradient))
        finite, grad = torch.tensor(20), torch.tensor(0.5)
        opcheck(ops.quantize_rows_backward.default, (x, grad, x, codebook[codes], finite, gradient))
    opcheck(ops.code_statistics.default, (x, torch.randint(-1, 5, (20,)), 5))
    opcheck(ops.finite_scalar_quantize.default, (x.clone().requires_grad_(), [8, 5, 4], "tanh"))
    opcheck(ops.finite_scalar_quantize_backward.default, (x, x, [8, 5, 4], "sigmoid"))
    opcheck(ops.bin_encode.default, (x, torch.linspace(-1, 1, 9)))
    opcheck(ops.bin_decode.default, (torch.randint(0, 5, (4, 4)), torch.randn(5, requires_grad=True)))


def test_decode_passes_gradcheck():
    codes = torch.tensor([[0, 2, -1], [2, 2, 1]])
    observed = codes >= 0
    centres = torch.randn(4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: bin_decode(codes, c)[observed], (centres,))
    codebook = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: code_decode(codes, c)[observed], (codebook,))


def test_commitment_passes_gradcheck():
    codebook = torch.randn(4, 3, dtype=torch.float64)
    x = (codebook.repeat(3, 1) + 0.1 * torch.randn(12, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: vector_quantize(y, codebook)[2], (x,))


def test_compiles_without_a_break():
    def step(x, codebook, values, edges):
        quantized, codes, commitment = vector_quantize(x, codebook, gradient="rotation")
        scalars, _ = finite_scalar_quantize(x, [8, 5, 4])
        return quantized.sum() + scalars.square().sum() + commitment, codes, bin_encode(values, edges)

    arguments = torch.randn(16, 3), torch.linspace(-1, 1, 5).expand(2, 3, 5), torch.linspace(-1, 1, 9)
    results = []
    for function in (step, torch.compile(step, fullgraph=True)):
        x = torch.linspace(-2, 2, 60).reshape(20, 3).requires_grad_()
        total, codes, bins = function(x, *arguments)
        total.backward()
        results.append((total.detach(), codes, bins, x.grad))
    for eager, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, eager)


def test_autocast_changes_no_index():
    x, codebook = torch.randn(2000, 32), torch.randn(500, 32)
    expected = nearest_code(x, codebook), *code_statistics(x, nearest_code(x, codebook), 500)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = nearest_code(x, codebook)
        got = codes, *code_statistics(x, codes, 500)
        _, _, commitment = vector_quantize(x.bfloat16(), codebook)
    assert commitment.dtype == torch.float32
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


# --------------------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: nearest_code(torch.zeros(2, 3), torch.zeros(4, 5)), ValueError, r"\(2, 3\).*D=5"),
        (lambda: nearest_code(torch.zeros(2, 3), torch.zeros(0, 3)), ValueError, r"K, D >= 1.*\(0, 3\)"),
        (lambda: nearest_code(torch.zeros(2, 3).long(), torch.zeros(4, 3)), TypeError, "x must be floating.*int64"),
        (lambda: nearest_code([1.0], torch.zeros(4, 3)), TypeError, "x must be a torch.Tensor.*list"),
        (lambda: nearest_code(torch.zeros(2, 3), torch.zeros(4, 3), metric="l1"), ValueError, "metric='l1'.*cosine"),
        (lambda: vector_quantize(torch.zeros(2, 3), torch.zeros(4, 3), gradient="x"), ValueError, "gradient='x'"),
        (lambda: finite_scalar_quantize(torch.zeros(2, 3), [8, 5]), ValueError, r"\(2, 3\).*\[8, 5\]"),
        (lambda: finite_scalar_quantize(torch.zeros(2, 2), [8, 1]), ValueError, r">= 2.*\[8, 1\]"),
        (lambda: finite_scalar_quantize(torch.zeros(2, 22), [8] * 22), ValueError, "more than int64"),
        (lambda: finite_scalar_quantize(torch.zeros(2, 1), [4], form="relu"), ValueError, "form='relu'"),
        (lambda: bin_encode(torch.zeros(3), torch.tensor([0.0, 2.0, 1.0])), ValueError, r"edges\[1\]=2.0.*edges\[2\]"),
        (lambda: bin_encode(torch.zeros(3), torch.tensor([0.0, nan])), ValueError, "increase"),
        (lambda: bin_encode(torch.zeros(3), torch.tensor([0.0])), ValueError, r"\(K\+1,\).*\(1,\)"),
        (lambda: bin_encode(torch.zeros(3).int(), torch.tensor([0.0, 1.0])), TypeError, "int32"),
        (lambda: bin_decode(torch.tensor([0, 7]), torch.zeros(4)), ValueError, r"-1\.\.3.*0\.\.7"),
        (lambda: bin_decode(torch.tensor([-2]), torch.zeros(4)), ValueError, r"-1\.\.3.*-2"),
        (lambda: bin_decode(torch.zeros(2), torch.zeros(4)), TypeError, "integer.*float32"),
        (lambda: code_statistics(torch.zeros(5, 2), torch.zeros(4).long(), 3), ValueError, r"\(5, 2\).*\(4,\)"),
    ],
)
def test_bad_arguments_are_named(call, error, says):
    with pytest.raises(error, match=says):
        call()
