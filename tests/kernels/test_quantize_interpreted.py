"""The Triton kernel of nearest codes in Triton's interpreter, float32 and float16, against the float64 definition.

(The interpreter multiplies bfloat16 as raw bits, so that dtype is left to tests/gpu.) Triton decides when it is
imported whether to interpret: outside the interpreter this file runs itself again in another process.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

if os.environ.get("TRITON_INTERPRET") != "1":

    def test_the_kernel_in_the_interpreter() -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", __file__, "-p", "no:cacheprovider"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

else:
    from fusion.kernels import BackendError, nearest_code, use_backend
    from fusion.kernels.quantize import reference

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for inf - inf behind a mask

    @pytest.fixture(autouse=True)
    def interpreter():
        torch.manual_seed(0)
        with use_backend("triton"):
            yield

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    @pytest.mark.parametrize("metric", ["l2", "cosine"])
    @pytest.mark.parametrize(
        ("rows", "size", "dim"), [(50, 70, 5), (33, 1, 3), (16, 2, 40), (5, 100, 17), (1, 16, 16), (0, 4, 4)]
    )
    def test_finds_the_nearest(dtype, metric, rows, size, dim):
        x, codebook = torch.randn(rows, dim).to(dtype), torch.randn(size, dim).to(dtype)
        expected = reference.nearest_code(x.double(), codebook.double(), metric) if rows else torch.empty(0).long()
        assert torch.equal(nearest_code(x, codebook, metric=metric), expected)

    def test_rescoring_finds_what_half_precision_cannot_tell_apart():
        codebook = 1 + 0.01 * torch.randn(60, 8)
        x = 1 + 0.01 * torch.randn(40, 8)
        expected = reference.nearest_code(x.half().double(), codebook.double())
        assert torch.equal(nearest_code(x.half(), codebook), expected)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_ties_go_to_the_lowest_index(dtype):
        x, codebook = torch.randn(40, 8).to(dtype), torch.randn(10, 8).to(dtype).repeat(7, 1)
        assert int(nearest_code(x, codebook).max()) < 10

    def test_large_offsets_do_not_blur_the_neighbours():
        x, codebook = torch.randn(40, 8) + 1e4, torch.randn(60, 8) + 1e4
        assert torch.equal(nearest_code(x, codebook), reference.nearest_code(x.double(), codebook.double()))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_missing_infinite_and_strided(dtype):
        x, codebook = torch.randn(20, 40).to(dtype)[:, ::2], torch.randn(30, 20).to(dtype)
        x[0, 3], x[1, 7], x[2, 0], x[2, 1] = math.nan, math.inf, -math.inf, math.nan
        codes = nearest_code(x, codebook)
        assert codes[:3].tolist() == [-1, 0, -1]
        assert torch.equal(codes[3:], reference.nearest_code(x[3:].double(), codebook.double()))

    def test_float64_is_refused_with_a_reason():
        with pytest.raises(BackendError, match="computes in float32"):
            nearest_code(torch.randn(2, 3).double(), torch.randn(4, 3))
