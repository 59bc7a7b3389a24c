"""The tests' own compiler for absent GPUs: a matrix product needs what the arithmetic says."""

from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from .aot import ARCHITECTURES, Resources, compile_kernel  # noqa: E402

ROWS, COLUMNS, DEPTH = 64, 64, 32


@triton.jit
def product_kernel(p_a, p_b, p_c, depth, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr):
    o_i, o_j, o_k = tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, DEPTH)
    b_sum = tl.zeros([ROWS, COLUMNS], tl.float32)
    for k in range(0, depth, DEPTH):
        b_a = tl.load(p_a + o_i[:, None] * stride + k + o_k[None, :])
        b_b = tl.load(p_b + (k + o_k)[:, None] * stride + o_j[None, :])
        b_sum = tl.dot(b_a, b_b, b_sum)
    tl.store(p_c + o_i[:, None] * stride + o_j[None, :], b_sum)


def compiled(architecture: int, warps: int = 4, **values: int) -> Resources:
    signature = {"p_a": "*bf16", "p_b": "*bf16", "p_c": "*fp32", "depth": "i32", "stride": "i32"}
    constants = {"ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
    options = {"architecture": architecture, "warps": warps, "stages": 2, "values": values}
    return compile_kernel(product_kernel, signature, constants, **options)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_are_those_of_the_tile(architecture: int) -> None:
    resources = compiled(architecture, depth=256, stride=256)
    resources.check(architecture, stack=0)
    assert ROWS * COLUMNS * DEPTH in resources.products_by_loop()
    for instruction, newer in (("HGMMA", 90), ("UTCHMMA", 100)):
        assert (resources.count(instruction) > 0) == (architecture == newer)


def test_two_warps_of_sm_90_multiply_by_themselves() -> None:
    resources = compiled(90, warps=2, depth=256, stride=256)
    assert resources.count("HMMA") > 0
    assert ROWS * COLUMNS * DEPTH in resources.products_by_loop()


def test_divisible_strides_load_in_larger_pieces() -> None:
    for stride, wide in ((256, True), (250, False)):
        opcodes = compiled(86, depth=256, stride=stride).code.opcodes
        assert any(o.startswith("LDGSTS") and o.endswith("128") for o in opcodes) == wide
