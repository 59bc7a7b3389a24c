"""How tensor cores add, for Triton's interpreter, whose products are NumPy's and round.

A tensor core takes 16 products and the sum so far, brings all to the largest exponent among them, cuts off what is
below, adds, and cuts the sum to float32: towards zero every time, so that long sums err to one side. (Fasi et al.,
"Numerical behavior of NVIDIA tensor cores", 2021; two bits beyond float32's, as on an H100.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

from fusion.kernels._triton.interpreter import to_float32

__all__ = ["truncating"]

_DEPTH, _BITS, _SPARE = 16, 24, 2


@contextlib.contextmanager
def truncating() -> Iterator[None]:
    """Products of 16 bit operands inside the block are added as a tensor core adds them."""
    rounding = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, c: TensorHandle, *options: Any) -> TensorHandle:
        if a.dtype.scalar not in (tl.float16, tl.bfloat16):
            return rounding(self, a, b, c, *options)
        left, right = (
            (to_float32(x.data) if x.dtype.scalar == tl.bfloat16 else x.data).astype(np.float64) for x in (a, b)
        )
        total = c.data.astype(np.float64)
        for k in range(0, left.shape[1], _DEPTH):
            products = left[:, k : k + _DEPTH, None] * right[None, k : k + _DEPTH, :]
            exponent = _exponent(np.maximum(np.abs(products).max(1), np.abs(total)))
            total = _cut(products, exponent[:, None], _BITS + _SPARE).sum(1) + _cut(total, exponent, _BITS + _SPARE)
            total = _cut(total, _exponent(total), _BITS)
        return TensorHandle(total.astype(np.float32), c.dtype.scalar)

    InterpreterBuilder.create_dot = create_dot
    try:
        yield
    finally:
        InterpreterBuilder.create_dot = rounding


def _exponent(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, -149, np.frexp(x)[1])


def _cut(x: np.ndarray, exponent: np.ndarray, bits: int) -> np.ndarray:
    step = np.ldexp(1.0, exponent - bits)
    return np.trunc(x / step) * step
