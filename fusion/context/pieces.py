"""Pieces of ground cut from cubes that may be larger than memory: what a training reads, and what it is checked on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from fusion.data import Cube
from fusion.data.cubes import SensorCube

__all__ = ["Pieces", "cut"]

_SIDES = (64, 48, 32, 24, 16, 12, 8)  # pixels
_ENOUGH = 5  # pieces: one of them validates


@dataclass(frozen=True)
class Pieces:
    """Square pieces of cubes, in memory, by split; no pixel is in two of them.

    Attributes:
        train, validation: about a fifth of the pieces validate.
        side: pixels.
        found: pieces that there are; those that fit the memory were read.
    """

    train: list[Cube]
    validation: list[Cube]
    side: int
    found: int

    def interior(self, window: int) -> np.ndarray:
        """(side, side) bool, pixels whose window lies in the piece: contexts of two splits then share no pixel."""
        inside = np.zeros((self.side, self.side), dtype=bool)
        r = window // 2
        inside[r : self.side - r, r : self.side - r] = True
        return inside

    def __str__(self) -> str:
        read = len(self.train) + len(self.validation)
        told = f"{self.found}" if read == self.found else f"{read} of {self.found}, as many as the memory allows,"
        return (
            f"{told} pieces of {self.side} x {self.side} pixels: {len(self.train)} to train on, "
            f"{len(self.validation)} for validation"
        )


def cut(cubes: Sequence[Cube], window: int, *, reference: str, memory: int, seed: int = 0) -> Pieces:
    """Cuts cubes into pieces, the largest of which there are enough, and reads as many as fit.

    Pieces on which the reference was never observed are left out. What is left over at the right and lower border of a
    cube is not read.

    Args:
        window: side of the context window in pixels; a piece has room for some.
        reference: the sensor whose dates are embedded.
        memory: bytes for the pieces.

    Raises:
        ValueError: the cubes are too small for two pieces, or the reference was observed on fewer than two.
    """
    cubes = [cube for cube in cubes if reference in cube.sensors]
    places: list[tuple[int, int, int]] = []
    side = 0
    for side in (s for s in _SIDES if s >= window + 2):
        places = [(k, row, column) for k, cube in enumerate(cubes) for row, column in _corners(cube.shape, side)]
        if len(places) >= _ENOUGH:
            break
    if len(places) < 2:
        sizes = ", ".join(f"{h} x {w}" for h, w in dict.fromkeys(cube.shape for cube in cubes)) or "nothing"
        raise ValueError(
            f"context: {sizes} pixels are too few for two pieces of ground with windows of {window} x {window} pixels, "
            "one to train on and one for validation; give a larger cube or --model.window 1"
        )
    order = np.random.default_rng(seed).permutation(len(places))
    pieces: list[Cube] = []
    left = memory
    for number in order:
        k, row, column = places[number]
        piece = _piece(cubes[k], row, column, side)
        if not _observed(piece.sensors[reference]):
            continue
        size = sum(_bytes(sensor) for sensor in piece.sensors.values())
        if size > left and len(pieces) >= 2:
            break
        left -= size
        pieces.append(piece)
    if len(pieces) < 2:
        raise ValueError(
            f"context: {reference!r} was observed on {len(pieces)} of {len(places)} pieces of {side} x {side} pixels, "
            "two are wanted; check nodata value and cloud mask with fusion data check"
        )
    held = max(1, len(pieces) // 5)
    return Pieces(pieces[held:], pieces[:held], side, len(places))


def _corners(shape: tuple[int, int], side: int) -> list[tuple[int, int]]:
    height, width = shape
    return [(r, c) for r in range(0, height - side + 1, side) for c in range(0, width - side + 1, side)]


def _piece(cube: Cube, row: int, column: int, side: int) -> Cube:
    """In memory, named by its place; NaN where not observed."""
    sensors: Mapping[str, SensorCube] = {
        name: _read(sensor, slice(row, row + side), slice(column, column + side))
        for name, sensor in cube.sensors.items()
    }
    return Cube(f"{cube.name}-{row}-{column}", sensors, site=cube.site or cube.name)


def _read(sensor: SensorCube, rows: slice, columns: slice) -> SensorCube:
    values, observed = sensor.read(rows, columns)
    return replace(sensor, values=np.where(observed, values, np.float32(np.nan)), clear=None)


def _observed(sensor: SensorCube) -> bool:
    return bool(np.isfinite(sensor.values).any())


def _bytes(sensor: SensorCube) -> int:
    """Of a piece and of the samples' own copy of it: values and what was observed, twice."""
    return int(np.prod(sensor.values.shape)) * (4 + 5)
