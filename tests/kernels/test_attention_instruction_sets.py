"""The compiled attention kernels on the vector instructions of older processors, which this one has too."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fusion.kernels import euclidean_buckets
from fusion.kernels.attention import reference
from fusion.kernels.build import CSRC
from fusion.kernels.toolchain import ToolchainError, cxx

DRIVER = """
#include "cpu/attention.h"
using namespace fusion::attention;

extern "C" void run(int64_t batch, int64_t heads, int64_t length, int64_t dim, int64_t buckets, int contextual,
                    double dropout, const int32_t* live, int64_t live_count, const void* bucket,
                    const int32_t* position, const bool* valid, float* tensors[], float* table, float* grad_table,
                    float* statistics[]) {
  const auto view = [&](float* data) { return Heads{data, heads * length * dim, length * dim, dim}; };
  Problem p{};
  p.batch = batch, p.heads = heads, p.queries = p.keys = p.positions = length, p.dim = dim, p.buckets = buckets;
  p.query = view(tensors[0]), p.key = view(tensors[1]), p.value = view(tensors[2]);
  p.element = Element::kFloat32, p.contextual = contextual, p.shared = true, p.table = table;
  p.bucket = bucket, p.live = live, p.live_count = live_count, p.query_position = p.key_position = position;
  p.key_valid = valid, p.seed = 7, p.dropout = dropout, p.scale = 0.3f, p.threads = 2;
  forward(p, view(tensors[3]), statistics[0], statistics[1]);
  backward(p, view(tensors[4]), view(tensors[3]), statistics[0], statistics[1], view(tensors[5]), view(tensors[6]),
           view(tensors[7]), grad_table);
}
"""


@pytest.fixture(scope="module", params=["haswell", "x86-64"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """AVX2 with FMA, or nothing beyond what every 64-bit processor has."""
    if platform.machine() != "x86_64":
        pytest.skip("instruction sets of x86")
    try:
        compiler = cxx()
    except ToolchainError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "driver.cpp").write_text(DRIVER)
    flags = ["-std=c++17", "-O1", f"-march={request.param}", "-fPIC", "-fopenmp", "-shared", f"-I{CSRC}"]
    sources = sorted((Path(CSRC) / "cpu").glob("attention_*.cpp"))
    subprocess.run([compiler, *flags, folder / "driver.cpp", *sources, "-o", folder / "attention.so"], check=True)
    return ctypes.CDLL(str(folder / "attention.so"))


def _pointers(tensors: list[Tensor]) -> ctypes.Array:
    return (ctypes.c_void_p * len(tensors))(*(t.data_ptr() for t in tensors))


@pytest.mark.parametrize(
    ("dim", "buckets", "contextual", "dropout"),
    [(16, 8, True, 0.0), (13, 8, True, 0.3), (40, 14, False, 0.0), (8, 40, True, 0.2)],
)
def test_agrees_with_the_definition(library, dim, buckets, contextual, dropout):
    generator = torch.Generator().manual_seed(0)
    batch, heads, side = 2, 2, 7
    length = 1 + side * side
    bucket = euclidean_buckets(side, side)
    if buckets != 8:
        bucket = torch.randint(buckets, (length, length), generator=generator)
    operands = [torch.randn(batch, heads, length, dim, generator=generator) for _ in range(3)]
    gradient = torch.randn(batch, heads, length, dim, generator=generator)
    table = torch.randn(1, *((dim,) if contextual else ()), buckets, generator=generator)
    valid = torch.rand(batch, length, generator=generator) > 0.3

    tensors = [*operands, torch.empty_like(gradient), gradient, *(torch.empty_like(gradient) for _ in range(3))]
    statistics = [torch.empty(batch, heads, length) for _ in range(2)]
    grad_table = torch.empty_like(table)
    counts = bucket.flatten().bincount(minlength=buckets)
    live = counts.argsort(descending=True)[: int((counts > 0).sum())].int()
    compact = torch.zeros(length * length + 64, dtype=torch.uint8 if buckets <= 16 else torch.uint16)
    compact[: length * length] = bucket.flatten().to(compact.dtype)
    position = torch.arange(length, dtype=torch.int32)
    sizes = (ctypes.c_int64(n) for n in (batch, heads, length, dim, buckets))
    library.run(
        *sizes, int(contextual), ctypes.c_double(dropout), ctypes.c_void_p(live.data_ptr()),
        ctypes.c_int64(len(live)), *(ctypes.c_void_p(t.data_ptr()) for t in (compact, position, valid)),
        _pointers(tensors), *(ctypes.c_void_p(t.data_ptr()) for t in (table, grad_table)), _pointers(statistics),
    )  # fmt: skip

    inputs = [t.double().requires_grad_() for t in (*operands, table)]
    options = {"bucket": bucket, "key_valid": valid, "dropout_p": dropout, "seed": torch.tensor([7]), "scale": 0.3}
    options["mode"] = "contextual" if contextual else "bias"
    output = reference.relative_attention(*inputs[:3], table=inputs[3], **options)
    output.backward(gradient.double())
    got = [tensors[3], *tensors[5:], grad_table]
    for mine, want in zip(got, [output.detach(), *(t.grad for t in inputs)], strict=True):
        torch.testing.assert_close(mine.double(), want, rtol=1e-4, atol=2e-5)
