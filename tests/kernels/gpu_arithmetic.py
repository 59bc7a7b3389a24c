"""The arithmetic of a GPU in Triton's interpreter, so that an error of it shows without one.

NumPy rounds every operation by itself, within half a unit in the last place, and adds in the same order wherever it
adds. On a GPU

- ``exp2`` is ``ex2.approx``, within two units in the last place, but exact for whole numbers and good next to them;
- a division is within two units unless it is ``div_rn``;
- a product that is added to is not rounded before the sum (contraction to ``fma``);
- ``tl.dot`` of float32 adds its products one by one, each sum rounded once;
- a reduction adds in the order of its layout, which the compiler chooses by kernel: here a shuffled one for each;
- a tensor core takes 16 products of 16-bit operands and the sum so far, brings all to the largest exponent among them,
  cuts off what is below, adds, and cuts the sum to float32: towards zero every time, so that long sums err to one side.
  (Fasi et al., "Numerical behavior of NVIDIA tensor cores", 2021; two bits beyond float32's, as on an H100.)

Errors are by the bits of what is computed, so that the same numbers give the same bits.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, ReduceOps, TensorHandle

from fusion.kernels._triton.interpreter import to_float32

__all__ = ["ALL_PARTS", "PARTS", "gpu_arithmetic"]

PARTS = ("exp2", "division", "contraction", "dot", "order")  # of float32 operands
ALL_PARTS = (*PARTS, "tensor cores")
_DEPTH, _BITS, _SPARE = 16, 24, 2  # products that a tensor core adds at once, bits of float32, and its own beyond them
_ULPS = 2.0


@contextlib.contextmanager
def gpu_arithmetic(parts: tuple[str, ...] = PARTS) -> Iterator[None]:
    """Computes as a GPU does, in ``parts`` of it."""
    with contextlib.ExitStack() as kept:
        for part in parts:
            for owner, name, method in _MADE[part]():
                kept.callback(setattr, owner, name, owner.__dict__[name])
                setattr(owner, name, method)
        yield


def _blurred(values: np.ndarray, *operands: np.ndarray) -> np.ndarray:
    """values with a relative error up to two units in the last place, which follows from the operands' bits."""
    bits = np.zeros(values.shape, np.uint32)
    for operand in operands:
        given = np.ascontiguousarray(operand, np.float32).view(np.uint32).reshape(operand.shape)
        bits = (bits ^ given) * np.uint32(0x9E3779B1)
        bits ^= bits >> 15
    noise = bits.astype(np.float64) / 2**31 - 1  # in [-1, 1)
    return (values.astype(np.float64) * (1 + _ULPS * 2.0**-24 * noise)).astype(np.float32)


def _is_float32(*handles: TensorHandle) -> bool:
    return all(handle.data.dtype == np.float32 for handle in handles)


def _exp2() -> list[tuple[type, str, Any]]:
    plain = InterpreterBuilder.create_exp2

    def create_exp2(self: Any, x: TensorHandle) -> TensorHandle:
        result = plain(self, x)
        if _is_float32(x):
            away = np.abs(x.data - np.round(x.data)) > 2.0**-10
            result.data = np.where(away, _blurred(result.data, x.data), result.data)
        return result

    return [(InterpreterBuilder, "create_exp2", create_exp2)]


def _division() -> list[tuple[type, str, Any]]:
    plain = InterpreterBuilder.create_fdiv

    def create_fdiv(self: Any, x: TensorHandle, y: TensorHandle) -> TensorHandle:
        result = plain(self, x, y)
        if _is_float32(x, y):
            result.data = _blurred(result.data, x.data, y.data)
        return result

    return [(InterpreterBuilder, "create_fdiv", create_fdiv)]


def _contraction() -> list[tuple[type, str, Any]]:
    times, plus, minus = (getattr(InterpreterBuilder, f"create_{name}") for name in ("fmul", "fadd", "fsub"))

    def create_fmul(self: Any, x: TensorHandle, y: TensorHandle) -> TensorHandle:
        result = times(self, x, y)
        if _is_float32(x, y):
            result.exact = x.data.astype(np.float64) * y.data
        return result

    def create_fadd(self: Any, x: TensorHandle, y: TensorHandle) -> TensorHandle:
        result = plus(self, x, y)
        if hasattr(x, "exact"):
            result.data = (x.exact + y.data).astype(np.float32)
        elif hasattr(y, "exact"):
            result.data = (x.data + y.exact).astype(np.float32)
        return result

    def create_fsub(self: Any, x: TensorHandle, y: TensorHandle) -> TensorHandle:
        result = minus(self, x, y)
        if hasattr(x, "exact"):
            result.data = (x.exact - y.data).astype(np.float32)
        elif hasattr(y, "exact"):
            result.data = (x.data - y.exact).astype(np.float32)
        return result

    names = {"create_fmul": create_fmul, "create_fadd": create_fadd, "create_fsub": create_fsub}
    return [(InterpreterBuilder, name, method) for name, method in names.items()]


def _dot() -> list[tuple[type, str, Any]]:
    plain = InterpreterBuilder.create_dot

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, c: TensorHandle, *options: Any) -> TensorHandle:
        if not _is_float32(a, b, c):
            return plain(self, a, b, c, *options)
        total, left, right = c.data, a.data.astype(np.float64), b.data
        for k in range(left.shape[-1]):
            total = (total + left[:, k, None] * right[None, k]).astype(np.float32)
        return TensorHandle(total, c.dtype.scalar)

    return [(InterpreterBuilder, "create_dot", create_dot)]


def _order() -> list[tuple[type, str, Any]]:
    plain, run = ReduceOps.sum, interpreter.GridExecutor.__call__
    kernel = [0]

    def call(self: Any, *arguments: Any, **options: Any) -> None:
        kernel[0] = zlib.crc32(self.fn.__name__.encode())
        run(self, *arguments, **options)

    def add(self: Any, x: tl.tensor) -> tl.tensor:
        data = x.handle.data
        if data.dtype != np.float32 or self.axis is None or self.keep_dims:
            return plain(self, x)
        data = np.moveaxis(data, self.axis, 0)
        data = data[np.random.default_rng([kernel[0], *data.shape]).permutation(len(data))]
        while len(data) > 1:
            data = data[: len(data) // 2] + data[len(data) // 2 :]
        return self.to_tensor(data[0], x.dtype)

    return [(ReduceOps, "sum", add), (interpreter.GridExecutor, "__call__", call)]


def _tensor_cores() -> list[tuple[type, str, Any]]:
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

    return [(InterpreterBuilder, "create_dot", create_dot)]


def _exponent(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, -149, np.frexp(x)[1])


def _cut(x: np.ndarray, exponent: np.ndarray, bits: int) -> np.ndarray:
    step = np.ldexp(1.0, exponent - bits)
    return np.trunc(x / step) * step


_MADE = dict(zip(ALL_PARTS, (_exp2, _division, _contraction, _dot, _order, _tensor_cores), strict=True))
