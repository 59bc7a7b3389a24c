"""The parts in which large arrays are kept."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["chunk_side", "windows"]

_LARGEST_CHUNK = 8 * 2**20  # bytes


def chunk_side(dim: int, itemsize: int, *, least: int = 16) -> int:
    """Pixels per side of the part of a raster that is read at once, with all of its dimensions.

    The largest power of two, 256 at most, of which all dimensions take no more than 8 MiB before compression: large
    enough that the time of a request is well spent, small enough that the vector of one place does not cost hundreds
    of megabytes. 64 dimensions of int8 have 256 pixels a side (4 MiB), 768 of float32 32 (3 MiB).

    Args:
        dim: dimensions of the embedding.
        itemsize: bytes of a number.
        least: what the result is never below.
    """
    side = 256
    while side > least and dim * side * side * itemsize > _LARGEST_CHUNK:
        side //= 2
    return side


def windows(rows: int, columns: int, size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """A raster in parts of ``size``, those at the lower and right border smaller, from the upper left on."""
    for top in range(0, rows, size[0]):
        for left in range(0, columns, size[1]):
            yield slice(top, min(top + size[0], rows)), slice(left, min(left + size[1], columns))
