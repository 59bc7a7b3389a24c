"""How a scene is cut into tiles, and which of them belong to a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from typing import Any

import numpy as np

from .description import Description
from .scene import Scene

__all__ = ["corners", "members"]


def corners(scene: Scene, description: Description) -> list[tuple[float, float]]:
    """Top and left of the tiles of a scene, in metres."""
    stride = description.stride or description.tile
    tops, lefts = (np.arange(0, length - description.tile + 1e-6, stride) for length in scene.extent)
    return [(float(top), float(left)) for top in tops for left in lefts]


def members(
    split: str,
    rule: Mapping[str, Any],
    scenes: Sequence[Scene],
    tiles: Sequence[tuple[int, float, float]],
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
