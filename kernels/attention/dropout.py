"""The dropout mask of attention as a function of (seed, row, key), the same bits in every backend.

Nothing of the mask is stored: the backward pass evaluates it again. The generator is counter-based. A row
(one query of one head of one tile) gets 64 key bits from SplitMix64 (Steele et al., OOPSLA 2014); an element
mixes its key index with them by the two multiplications of a 32-bit finaliser with low bias. Philox would
serve as well but costs the CPU more than the attention itself at head dimension 16.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["keep_mask", "row_keys", "threshold"]


def _signed(value: int, bits: int) -> int:
    """The two's complement reading of an unsigned constant, which is how torch takes it."""
    return value - (1 << bits) if value >> (bits - 1) else value


_GOLDEN64 = _signed(0x9E3779B97F4A7C15, 64)
_MIX64 = _signed(0xBF58476D1CE4E5B9, 64), _signed(0x94D049BB133111EB, 64)
_GOLDEN32 = _signed(0x9E3779B9, 32)
_MIX32 = _signed(0x21F0AAAD, 32), _signed(0x735A2D97, 32)


def _shift(x: Tensor, count: int) -> Tensor:
    """Logical right shift of a signed tensor."""
    bits = 8 * x.element_size()
    return (x >> count) & ((1 << (bits - count)) - 1)


def threshold(dropout_p: float) -> int:
    """An element is dropped where its 31 random bits are below this."""
    return int(dropout_p * 2**31)


def row_keys(seed: Tensor, row: Tensor) -> Tensor:
    """64 key bits for every row; ``seed (1,)`` int64, ``row`` int64 counts ``(b * H + h) * Lq + i``."""
    z = seed + (row + 1) * _GOLDEN64
    z = (z ^ _shift(z, 30)) * _MIX64[0]
    z = (z ^ _shift(z, 27)) * _MIX64[1]
    return z ^ _shift(z, 31)


def keep_mask(seed: Tensor, row: Tensor, keys: int, dropout_p: float) -> Tensor:
    """Which of ``keys`` attention weights each row keeps: bool ``(*row.shape, keys)``."""
    key = row_keys(seed, row)[..., None]
    column = torch.arange(keys, device=row.device, dtype=torch.int32) * _GOLDEN32  # (Lk,)
    x = column + key.int()  # wraps modulo 2^32, as do the products below
    x = (x ^ _shift(x, 16)) * _MIX32[0] + (key >> 32).int()
    x = (x ^ _shift(x, 15)) * _MIX32[1]
    return _shift(x ^ _shift(x, 15), 1) >= threshold(dropout_p)
