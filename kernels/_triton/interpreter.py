"""Mends bfloat16 in Triton's interpreter, so that kernels on CPU tensors compute what they compute on a GPU.

The interpreter keeps bfloat16 as its 16 bits in uint16. As of Triton 3.9 its casts cut off what they should round, and
its products multiply the bit patterns as integers. Imported once, by ``language``, where ``TRITON_INTERPRET=1``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

__all__ = ["to_float32"]


def to_float32(bits: np.ndarray) -> np.ndarray:
    """The values of bfloat16 that the interpreter keeps as bits."""
    return (np.ascontiguousarray(bits, dtype=np.uint16).astype(np.uint32) << 16).view(np.float32)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounds to the nearest, ties to even; keeps what is not a number."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)


def _mend(builder: Any) -> None:
    cast, dot = builder.cast_impl, builder.create_dot

    def cast_impl(self: Any, source: TensorHandle, target: Any) -> TensorHandle:
        given, wanted = source.dtype.scalar, target.scalar
        if given == wanted or tl.bfloat16 not in (given, wanted):
            return cast(self, source, target)
        if given == tl.bfloat16:
            wide = TensorHandle(to_float32(source.data), tl.float32)
            return wide if wanted == tl.float32 else cast(self, wide, target)
        return TensorHandle(_to_bfloat16(source.data), wanted)

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, c: TensorHandle, *options: Any) -> TensorHandle:
        a, b = (TensorHandle(to_float32(x.data), tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        return dot(self, a, b, c, *options)

    builder.cast_impl, builder.create_dot = cast_impl, create_dot


_mend(InterpreterBuilder)
