"""Sides of tiles and patches that fit the pixels of every modality and the ground that there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["sides"]

_PIXELS = 4  # of the finest modality, across a patch
_PATCHES = 6  # across a tile


def sides(resolutions: Sequence[float], extents: Sequence[tuple[float, float]]) -> tuple[float, float, str]:
    """Tile and patch in metres, and why.

    A patch is a multiple of every pixel size and at least four of the finest pixels across, where the ground has room
    for it; a tile six patches across, or as many as fit.
    """
    hundredths = [max(1, round(resolution * 100)) for resolution in resolutions]
    common = math.lcm(*hundredths) / 100
    whole = common * math.ceil(_PIXELS * min(resolutions) / common - 1e-9)
    ground = min((min(extent) for extent in extents), default=math.inf)
    patch = whole if whole <= ground else max(common, common * math.floor(ground / common + 1e-9))
    patches = _PATCHES if patch * _PATCHES <= ground else max(1, math.floor(ground / patch + 1e-9))
    pixels = " and ".join(f"{value:g}" for value in sorted(set(resolutions)))
    why = f"{patches} x {patches} patches" + (f" of the {ground:g} m that there are" if patches < _PATCHES else "")
    return patch * patches, patch, f"{why}; a multiple of pixels of {pixels} m"
