"""Some of many, evenly spaced."""

from __future__ import annotations

import numpy as np

__all__ = ["evenly_spaced"]


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """Numbers of at most ``most`` of ``count`` things, (n,) int64 rising, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
