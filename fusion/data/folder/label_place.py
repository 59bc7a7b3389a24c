"""Where the labels of a scene lie, and how they come to the pixels of its tiles."""

from __future__ import annotations

from .align import Warped
from .grid import Grid, around, bounds_of, check_grid, difference
from .opening import Opener, Tiles
from .pixels import Pixels

__all__ = ["lay_labels"]


def lay_labels(
    part: Pixels, what: str, resolution: float, tiles: Tiles | None, opener: Opener, *, described: bool
) -> Pixels:
    """A map of labels as it lies, if it lies on the tiles, or else the nearest of its pixels for each of theirs.

    Nothing is labelled where the map does not reach.

    Args:
        what: names the labels in messages.
        resolution: metres per pixel that are wanted.
        described: the description says this resolution, so that the file must have it.

    Raises:
        ValueError: pixels of another size than described, no place where the tiles have one, or no ground in common.
    """
    if part.grid is None or tiles is None:
        return opener.on_tiles(part, what, resolution, tiles, covering=True, nearest=True)
    try:
        wrong = difference(part.grid, resolution, tiles.grid, tiles.resolution, covering=True)
        if described and not opener.description.align:
            check_grid(part.grid, resolution)
    except ValueError as error:
        raise ValueError(
            f"{part.path}: {error}; correct resolution, or leave it out, which lays the labels onto the tiles by the "
            "nearest pixel"
        ) from error
    if wrong is None:
        return part
    _check_overlap(part, what, part.grid, tiles.grid)
    opener.laid[what] = opener.laid.get(what, 0) + 1
    return Warped(part, tiles.grid.at(resolution, tiles.resolution), "nearest")


def _check_overlap(part: Pixels, what: str, own: Grid, tiles: Grid) -> None:
    from rasterio.warp import transform_bounds

    own = around(own, tiles)
    wanted = tiles.left, tiles.bottom, tiles.right, tiles.top
    if own.crs and tiles.crs:
        wanted = transform_bounds(tiles.crs, own.crs, *wanted, densify_pts=21)
    left, bottom, right, top = wanted
    if left < own.right and right > own.left and bottom < own.top and top > own.bottom:
        return
    there = bounds_of(tiles)
    if tiles.crs != own.crs:
        there += f" of {tiles.crs}, which are ({', '.join(f'{v:.10g}' for v in wanted)}) there"
    raise ValueError(
        f"{part.path}: {what} have the bounds {bounds_of(own)} of {own.crs or 'no CRS'} and the images {there}: they "
        "have no ground in common; give labels of this place, or correct the CRS of the file"
    )
