"""How a scene is cut into tiles, and which of them belong to a split."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any, Literal

import numpy as np

from .description import Description
from .scene import Scene

__all__ = ["Corner", "Corners", "corners", "cover", "members"]

Corner = tuple[int, float, float]  # number of the scene, top and left in metres


@dataclass(frozen=True)
class Corners:
    """Where N tiles begin, in columns: a scene of a satellite has millions of tiles.

    Attributes:
        scenes: (N,) int32 number of the scene of each.
        metres: (N, 2) float64 from the scene's northern and western border to the tile's.
    """

    scenes: np.ndarray
    metres: np.ndarray

    @classmethod
    def of(cls, places: Sequence[np.ndarray]) -> Corners:
        """From (n, 2) top and left in metres for each scene."""
        counts = [len(own) for own in places]
        return cls(np.repeat(np.arange(len(counts), dtype=np.int32), counts), np.concatenate(places).reshape(-1, 2))

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, row: int) -> Corner:
        top, left = self.metres[row].tolist()
        return int(self.scenes[row]), top, left

    def select(self, which: np.ndarray) -> Corners:
        """Those of some numbers, or of a mask."""
        return Corners(self.scenes[which], self.metres[which])


def corners(scene: Scene, description: Description, border: float | None = None) -> np.ndarray:
    """(N, 2) top and left of the tiles of a scene, in metres.

    Args:
        border: more tiles along the right and the lower border, which begin at multiples of so many metres and end as
            near to it as that allows: whole strides may leave ground that lies in no tile.
    """
    stride, side = description.stride or description.tile, description.tile
    tops, lefts = (_starts(length - side, stride, border) for length in scene.extent)
    return np.stack(np.meshgrid(tops, lefts, indexing="ij"), axis=-1).reshape(-1, 2)


def cover(
    scenes: Sequence[Scene], description: Description, overlap: float, by: Literal["patch", "pixel"]
) -> list[np.ndarray]:
    """Of each scene (N, 2) top and left of tiles that cover it, see :meth:`.dataset.FolderDataset.covering`.

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
    tiles: Corners,
    side: float,
) -> np.ndarray:
    """Numbers of tiles that lie wholly within the rows and columns of a split, of scenes whose name matches.

    Args:
        rule: ``files``, ``rows`` and ``columns`` of the split, as the description has them.
        side: of a tile in metres.

    Raises:
        ValueError: the rule names a scene by what YAML makes a number.
    """
    patterns = _patterns(split, rule.get("files", "*"), scenes)
    wanted = np.array([any(fnmatch(scene.name, pattern) for pattern in patterns) for scene in scenes])
    inside = wanted[tiles.scenes]  # (N,)
    extent = np.array([scene.extent for scene in scenes])  # (S, 2) height, width
    for axis, key in enumerate(("rows", "columns")):
        length, start = extent[tiles.scenes, axis], tiles.metres[:, axis]
        inside &= _inside(start / length, (start + side) / length, rule.get(key, [0, 1]))
    return np.flatnonzero(inside)


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


def _inside(start: np.ndarray, end: np.ndarray, intervals: Sequence[Any]) -> np.ndarray:
    """(N,) bool: shares of a scene that lie wholly within one of the intervals."""
    pairs = intervals if intervals and isinstance(intervals[0], list | tuple) else [intervals]
    found: np.ndarray = np.any([(low - 1e-9 <= start) & (end <= high + 1e-9) for low, high in pairs], axis=0)
    return found
