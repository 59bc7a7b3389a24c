"""iRPE's Euclidean buckets: the table, and the grid that a table came from, for kernels that need no table."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BUCKETS", "coordinates", "euclidean_buckets", "grid_of"]

# iRPE's piecewise index function (Wu et al., ICCV 2021, Eq. 18) with the ratio 1.9 used for images:
# linear up to ALPHA, logarithmic up to GAMMA, never beyond BETA.
_ALPHA, _BETA, _GAMMA = 1.9, 2 * 1.9, 8 * 1.9
_EXTRA_BUCKET = 7
BUCKETS = (3, 4, 5, 6, _EXTRA_BUCKET)  # in the order of their squared distances: from 0, 1, 3 and 13, and beyond a grid

_LONGEST_SIDE = 1024  # of a grid in closed form: squared distances stay below 2 ** 21


def euclidean_buckets(height: int, width: int, extra: int = 1) -> Tensor:
    """iRPE's Euclidean bucket of every pair of positions of a ``height x width`` grid.

    The distance of two patches, ``round(sqrt(dr^2 + dc^2))``, gives bucket 3 (0), 4 (1), 5 (2 and 3) or
    6 (4 and more); a pair that touches one of the ``extra`` leading positions (class tokens) is in bucket 7.
    A table of 8 buckets therefore has three that this layout never uses, as in the original.

    Returns:
        (S, S) int64 with S = extra + height * width, patches in row-major order.

    Raises:
        ValueError: a side is not positive or ``extra`` is negative.

    Source: Wu et al., "Rethinking and Improving Relative Position Encoding for Vision Transformer", ICCV 2021.
    """
    if height < 1 or width < 1 or extra < 0:
        raise ValueError(
            f"euclidean_buckets: needs height, width >= 1 and extra >= 0, got {height} x {width} and extra={extra}"
        )
    with torch.device("cpu"):
        rows = torch.arange(height).repeat_interleave(width)  # (P,)
        columns = torch.arange(width).repeat(height)  # (P,)
        squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2  # (P, P)
        buckets = torch.full((extra + height * width,) * 2, _EXTRA_BUCKET)
        buckets[extra:, extra:] = _piecewise(squared.double().sqrt().round())
    default = torch.get_default_device()
    # A model made on meta is given its weights later, from a checkpoint that does not have this table.
    return buckets if default.type == "meta" else buckets.to(default)


def _piecewise(distance: Tensor) -> Tensor:
    """iRPE's index function of a rounded distance, shifted so that it starts at ``int(BETA)``."""
    slope = (_BETA - _ALPHA) / math.log(_GAMMA / _ALPHA)
    beyond = (_ALPHA + (distance.clamp(min=1.0) / _ALPHA).log() * slope).round().clamp(max=_BETA)
    return torch.where(distance <= _ALPHA, distance, beyond).long() + int(_BETA)


def grid_of(bucket: Tensor) -> tuple[int, int, int] | None:
    """(height, width, extra) with which :func:`euclidean_buckets` gives this table; None if there are none."""
    extra = int((bucket.diagonal() == _EXTRA_BUCKET).sum())
    patches = bucket.shape[0] - extra
    if not patches:
        return None
    first = bucket[extra, extra:].cpu().long()
    for width in range(1, min(patches, _LONGEST_SIDE) + 1):
        height, rest = divmod(patches, width)
        # The first patch's own row tells almost every other width apart, so that few tables are made.
        if rest or height > _LONGEST_SIDE or not torch.equal(first, _first_row(height, width)):
            continue
        if torch.equal(bucket.cpu().long(), euclidean_buckets(height, width, extra)):
            return height, width, extra
    return None


def _first_row(height: int, width: int) -> Tensor:  # (P,) int64
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    return _piecewise((rows**2 + columns**2).double().sqrt().round()).flatten()


def coordinates(grid: tuple[int, int, int], keys: bool) -> Tensor:
    """(S, 16) float16: the product of a query's row and a key's is their squared distance, in whole numbers.

    ``|q - k|^2 = |q|^2 + |k|^2 - 2 q k``, squares in two parts of 10 bits, so that products and sums are exact in
    float32. Extra positions have 4096 in column 6 (queries) or 7 (keys): any pair that touches one is ``2 ** 24`` or
    more apart, and patches less than ``2 ** 22``.
    """
    height, width, extra = grid
    patch = torch.arange(height * width)
    row, column = patch.div(width, rounding_mode="floor"), patch.remainder(width)
    square = row**2 + column**2
    high, low, one = square.div(1024, rounding_mode="floor"), square.remainder(1024), torch.ones_like(square)
    if keys:
        features = [-2 * row, -2 * column, 1024 * one, one, high, low, 4096 * one, 0 * one]
    else:
        features = [row, column, high, low, 1024 * one, one, 0 * one, 4096 * one]
    at = torch.zeros(extra + height * width, 16)
    at[extra:, :8] = torch.stack(features, 1).float()
    at[:extra, 2:8] = torch.tensor([1024, 1, 0, 0, 4096, 4096] if keys else [0, 0, 1024, 1, 4096, 4096]).float()
    return at.half()
