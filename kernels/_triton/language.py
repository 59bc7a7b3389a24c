"""Constants and arithmetic of the kernels: base-2 logarithms, float32 products on tensor cores."""

from __future__ import annotations

import os

import triton
import triton.language as tl

from ..cache import cache_folder, home_folder
from .device import interpreting

if home_folder() is None:  # else Triton would make a folder called "~" where the program was started
    os.environ.setdefault("TRITON_HOME", str(cache_folder()))
if interpreting():
    from . import interpreter  # noqa: F401  (bfloat16 there is wrong without)

__all__ = ["LN_2", "LOG2_E", "constant", "nearest_integer", "power_of_two", "product", "split", "split_whole"]


def constant(value: float) -> float | tl.constexpr:
    """A number that kernels may take from their module; the interpreter cannot have a constexpr left of an operator."""
    return value if interpreting() else tl.constexpr(value)


LOG2_E = constant(1.4426950408889634)
LN_2 = constant(0.6931471805599453)


@triton.jit
def nearest_integer(b_x):
    """b_x, up to 2^22, rounded to the nearest integer, ties to even: int32, and float32."""
    b_whole = b_x + 12582912.0  # 1.5 2^23: beside it float32 has no fraction, and the integer is in its last bits
    return b_whole.to(tl.int32, bitcast=True) - 0x4B400000, b_whole - 12582912.0


@triton.jit
def split(b_x):
    """float32 as two float16: x = high + low to 22 bits, where 2^-3 <= |x| < 65504; see ``power_of_two``.

    high takes the first 11 bits and low the next 11. Below 2^-3 low loses the bits under 2^-24, which is absolute:
    against a row's largest value scaled to 2^15 the error stays under 2^-40.
    """
    b_high = b_x.to(tl.float16)
    return b_high, (b_x - b_high.to(tl.float32)).to(tl.float16)


@triton.jit
def split_whole(b_x):
    """Rows of float32 of norm below 2^12, each value as a whole number and the rest, two float16.

    Products of whole numbers add up to whole numbers, below 2^24 for two such rows, which tensor cores hold exactly. Of
    other numbers they cut off what does not fit, term by term, and the sum errs to one side by some units in the last
    place. The rest is known to 2^-13, half a unit in the last place of float32 against the norm.
    """
    _, b_whole = nearest_integer(b_x)
    b_high = b_whole.to(tl.float16)
    return b_high, (b_x - b_high.to(tl.float32)).to(tl.float16)


@triton.jit
def power_of_two(b_largest, EXPONENT: tl.constexpr):
    """Powers of two that bring numbers up to b_largest >= 0 below 2^EXPONENT (above half of it), and their inverses.

    Found from the bits, so that scaling is exact. 0 gives the largest power there is.
    """
    b_exponent = (b_largest.to(tl.uint32, bitcast=True) >> 23).to(tl.int32)  # biased by 127
    b_factor = tl.minimum(tl.maximum(EXPONENT + 253 - b_exponent, 1), 253)
    b_scale = (b_factor << 23).to(tl.float32, bitcast=True)
    return b_scale, ((254 - b_factor) << 23).to(tl.float32, bitcast=True)


@triton.jit
def product(b_a, b_a_low, b_b, b_b_low, b_sum, SPLIT: tl.constexpr):
    """b_sum + a b on tensor cores with float32 sums. SPLIT: operands are split, and the products three.

    What is left out, low times low, is 2^-22 of the product: 8 times float32's rounding of one term at the most, in
    the mean of many terms less. The small products come first.

    Ootomo and Yokota, "Recovering single precision accuracy from Tensor Cores while surpassing the FP32 theoretical
    peak performance", 2022.
    """
    if SPLIT:
        b_sum = tl.dot(b_a_low, b_b, b_sum)
        b_sum = tl.dot(b_a, b_b_low, b_sum)
    return tl.dot(b_a, b_b, b_sum, input_precision="ieee")
