"""Sides of tiles and patches that fit the pixels of every modality and the ground that there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["sides"]

# Pixels of the finest modality across a patch, and patches across a tile: the first that gives enough tiles a scene.
_CHOICES = ((4, 6), (4, 4), (2, 6), (2, 4))
_ENOUGH = 30  # tiles, to deal among splits


def sides(resolutions: Sequence[float], extents: Sequence[tuple[float, float]]) -> tuple[float, float, str]:
    """Tile and patch in metres, and why.

    A patch is a multiple of every pixel size, four of the finest pixels across and a tile six patches; smaller ones
    where the ground is so small that few tiles would lie on it, and smaller ones would be enough.
    """
    hundredths = [max(1, round(resolution * 100)) for resolution in resolutions]
    common = math.lcm(*hundredths) / 100
    ground = min(extents, key=min, default=(math.inf, math.inf))
    choices = []
    for pixels, patches in _CHOICES:
        patch = common * math.ceil(pixels * min(resolutions) / common - 1e-9)
        choices.append((patch, patches, math.prod(side // (patch * patches) for side in ground)))
    enough = next((choice for choice in choices if choice[2] >= _ENOUGH), None)
    patch, patches, _ = enough or choices[0]
    told = f" of the {' x '.join(f'{side:g}' for side in ground)} m that there are"
    if patch * patches > min(ground):  # as many as fit
        patch = min(patch, max(common, common * math.floor(min(ground) / common + 1e-9)))
        patches = max(1, math.floor(min(ground) / patch + 1e-9))
    elif enough in (None, choices[0]):
        told = ""
    sizes = " and ".join(f"{value:g}" for value in sorted(set(resolutions)))
    return patch * patches, patch, f"{patches} x {patches} patches{told}; a multiple of pixels of {sizes} m"
