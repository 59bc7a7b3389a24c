"""How a scene is cut into tiles, and which of them belong to a split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np

from .description import Description
from .scene import Scene

__all__ = ["Corner", "corners", "cover", "members"]

Corner = tuple[int, float, float]  # number of the scene, top and left in metres


def corners(scene: Scene, description: Description, border: float | None = None) -> list[tuple[float, float]]:
    """Top and left of the tiles of a scene, in metres.

    Args:
        border: more tiles along the right and the lower border, which begin at multiples of so many metres and end as
            near to it as that allows: whole strides may leave ground that lies in no tile.
    """
    stride, side = description.stride or description.tile, description.tile
    tops, lefts = (_starts(length - side, stride, border) for length in scene.extent)
    return [(float(top), float(left)) for top in tops for left in lefts]


def cover(
    scenes: Sequence[Scene], description: Description, overlap: float, by: Literal["patch", "pixel"]
) -> list[list[tuple[float, float]]]:
    """Of each scene top and left of tiles that cover it, see :meth:`.dataset.FolderDataset.covering`.

    Raises:
        ValueError: an overlap that is not from 0 to below 1.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"overlap {overlap} is a share of a tile's side, from 0 to below 1")
    patch = description.patch
    patches = max(1, math.floor(description.tile / patch * (1 - overlap) + 1e-9))
    cut = replace(description, stride=description.stride or patches * patch)
    sizes = [source.resolution for source in description.modalities.values() if source.spatial and source.resolution]
    step = patch if by == "patch" else math.lcm(*(round(size * 100) for size in sizes)) / 100
    return [corners(scene, cut, step) for scene in scenes]


def _starts(last: float, stride: float, border: float | None) -> np.ndarray:
    starts = np.arange(0, last + 1e-6, stride)
    if border is None or not len(starts):
        return starts
    furthest = np.floor(last / border + 1e-6) * border
    return starts if furthest <= starts[-1] + 1e-6 else np.append(starts, furthest)


def members(
    split: str,
    rule: Mapping[str, Any],
    scenes: Sequence[Scene],
    tiles: Sequence[Corner],
    side: float,
) -> list[int]:
    """Tiles that lie wholly within the rows and columns of a split, of scenes whose name matches.

    Args:
        rule: ``files``, ``rows`` and ``columns`` of the split, as the description has them.
        tiles: scene, top and left in metres.
        side: of a tile in metres.

    Raises:
        ValueError: the rule has an unknown key, or names a scene by what YAML makes a number.
    """
    unknown = set(rule) - {"files", "rows", "columns"}
    if unknown:
        raise ValueError(f"split {split!r}: unknown key {', '.join(unknown)}; known are files, rows, columns")
    patterns = _patterns(split, rule.get("files", "*"), scenes)
    found = []
    for i, (number, top, left) in enumerate(tiles):
        scene = scenes[number]
        height, width = scene.extent
        if (
            any(fnmatch(scene.name, pattern) for pattern in patterns)
            and _inside(top / height, (top + side) / height, rule.get("rows", [0, 1]))
            and _inside(left / width, (left + side) / width, rule.get("columns", [0, 1]))
        ):
            found.append(i)
    return found


def _patterns(split: str, given: Any, scenes: Sequence[Scene]) -> list[str]:
    """Of names of scenes: one, or a list of them."""
    several = given if isinstance(given, list | tuple) else [given]
    for one in several:
        if not isinstance(one, str) and not any(scene.name == str(one) for scene in scenes):
            raise ValueError(
                f"split {split!r}: files: {one!r} is no text in YAML, which makes 60 of 0060, and no scene is called "
                f"{str(one)!r}; write it in quotes, as '{scenes[0].name}'"
            )
    return [str(one) for one in several]


def _inside(start: float, end: float, intervals: Sequence[Any]) -> bool:
    pairs = intervals if intervals and isinstance(intervals[0], list | tuple) else [intervals]
    return any(low - 1e-9 <= start and end <= high + 1e-9 for low, high in pairs)
