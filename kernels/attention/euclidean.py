"""iRPE's Euclidean buckets: the table, and the grid that a table came from, for kernels that need no table."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BUCKETS", "euclidean_buckets", "grid_of", "places"]

# iRPE's piecewise index function (Wu et al., ICCV 2021, Eq. 18) with the ratio 1.9 used for images:
# linear up to ALPHA, logarithmic up to GAMMA, never beyond BETA.
_ALPHA, _BETA, _GAMMA = 1.9, 2 * 1.9, 8 * 1.9
_EXTRA_BUCKET = 7
BUCKETS = (3, 4, 5, 6, _EXTRA_BUCKET)  # in the order of their squared distances: from 0, 1, 3 and 13, and beyond a grid

_LONGEST_SIDE = 4096  # of a grid in closed form: squared distances stay below 2 ** 26
_AWAY = 1 << 14  # row of an extra position: (2 ** 14 - 4095) ** 2 is above 2 ** 26


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
    rows = torch.arange(height).repeat_interleave(width)  # (P,)
    columns = torch.arange(width).repeat(height)  # (P,)
    squared = (rows[:, None] - rows) ** 2 + (columns[:, None] - columns) ** 2  # (P, P)
    buckets = torch.full((extra + height * width,) * 2, _EXTRA_BUCKET)
    buckets[extra:, extra:] = _piecewise(squared.double().sqrt().round())
    return buckets


def _piecewise(distance: Tensor) -> Tensor:
    """iRPE's index function of a rounded distance, shifted so that it starts at ``int(BETA)``."""
    slope = (_BETA - _ALPHA) / math.log(_GAMMA / _ALPHA)
    beyond = (_ALPHA + (distance.clamp(min=1.0) / _ALPHA).log() * slope).round().clamp(max=_BETA)
    return torch.where(distance <= _ALPHA, distance, beyond).long() + int(_BETA)


def grid_of(bucket: Tensor) -> tuple[int, int, int] | None:
    """(height, width, extra) with which :func:`euclidean_buckets` gives this table; None if there are none."""
    extra = int((bucket.diagonal() == _EXTRA_BUCKET).sum())
    patches = bucket.shape[0] - extra
    first = bucket[extra, extra:].cpu().long() if patches else None
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


def places(grid: tuple[int, int, int], position: Tensor, away: int) -> Tensor:
    """Row and column of each position, as ``row * 2 ** 16 + column`` in int32.

    Extra positions lie in row ``away`` times ``2 ** 14``. With 1 for queries and -1 for keys, every pair that
    touches one is further apart than any two patches.
    """
    _, width, extra = grid
    patch = position.long() - extra
    row = torch.where(patch < 0, away * _AWAY, patch.div(width, rounding_mode="floor"))
    column = torch.where(patch < 0, 0, patch.remainder(width))
    return (row * (1 << 16) + column).int()
