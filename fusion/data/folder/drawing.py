"""Points and polygons drawn onto the pixels of the tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from .description import Description, Labels
from .grid import Grid
from .labels import Labelled, reduce_map
from .placed import PlacedLabels, VectorLabels
from .scene import Scene
from .tiling import corners
from .values import Valued

__all__ = ["draw"]


@dataclass
class _Tally:
    """What is counted while features are drawn."""

    labelled: int = 0  # pixels
    disagreeing: int = 0
    inside: set[int] = field(default_factory=set)  # features that meet an image
    seen: set[int] = field(default_factory=set)  # features that label a pixel


def draw(given: PlacedLabels, valued: Valued, scenes: Sequence[Scene], description: Description) -> Labelled:
    """Labels of all tiles, scene after scene. What is to be known goes to the remarks of the features.

    A pixel has the label of the polygon in which its centre lies, or of the point that it holds. Features are drawn
    twice, in ascending and in descending order of their labels: where the two differ, features disagree, and the pixel
    has no label.

    Raises:
        ValueError: a scene without CRS, all features outside, or no tile with a label.
    """
    resolution = given.resolution or description.patch
    classes = {name: (k,) for k, name in enumerate(valued.classes)}
    labels = Labels(
        given.reduction,
        resolution,
        given.field,
        classes,
        min_labelled=given.min_labelled,
        min_share=given.min_share,
    )
    tally, first, values, enough, touching = _Tally(), 0, [], [], []
    touched = isinstance(given, VectorLabels) and given.all_touched
    for scene in scenes:
        shapes = _Shapes.of_scene(valued, scene, resolution)
        tally.inside.update(shapes.numbers.tolist())
        side = round(description.tile / resolution)
        tiles = [tuple(round(m / resolution) for m in corner) for corner in corners(scene, description)]
        labelled = np.zeros(len(tiles), dtype=bool)
        for rows, blocks in _blocks(shapes, tiles, side, touched, tally):
            own, known = reduce_map(labels, blocks)
            values.append(own[known])
            labelled[rows[known]] = True
        pairs = shapes.touching([tiles[i] for i in np.flatnonzero(labelled)], side)
        touching.append(np.stack([first + pairs[0], shapes.numbers[pairs[1]]]))
        enough.append(labelled)
        first += int(labelled.sum())
    if not tally.inside:
        raise ValueError(_outside(valued, scenes))
    _remark(valued, tally, resolution, touched)
    there = np.concatenate(enough)
    if not there.any():
        how = f"; none has {given.min_labelled:.0%} labelled pixels (min_labelled)" if tally.labelled else ""
        raise ValueError(
            f"{valued.features.path}: none of {len(there)} tiles has a label: {len(tally.inside)} features meet the "
            f"images and label {tally.labelled} pixels of {resolution:g} m{how or '. Try all_touched: true'}"
        )
    return Labelled(labels, np.concatenate(values), there, np.concatenate(touching, axis=1))


@dataclass(frozen=True)
class _Shapes:
    """The features that meet a scene, in its CRS.

    Attributes:
        numbers: (n,) among all features, ascending by label.
        codes: (n,) of these.
        grid: of the labels' pixels over the scene.
    """

    numbers: np.ndarray
    geometries: np.ndarray
    codes: np.ndarray
    grid: Grid
    tree: Any

    @classmethod
    def of_scene(cls, valued: Valued, scene: Scene, resolution: float) -> _Shapes:
        import geopandas
        import shapely

        if scene.tiles is None or not scene.tiles.grid.crs:
            raise ValueError(
                f"scene {scene.name!r} has no CRS, so {valued.features.path.name} cannot be drawn onto it; give "
                "georeference in the description"
            )
        whole = scene.tiles.grid.at(resolution, scene.tiles.resolution)
        grid = whole.window(0, 0, *(round(metres / resolution) for metres in scene.extent))
        near = _near(valued.features, grid)
        placed = geopandas.GeoSeries(valued.features.geometries[near], crs=valued.features.crs).to_crs(grid.crs)
        geometries = np.asarray(placed.values, dtype=object)
        ground = shapely.box(grid.left, grid.bottom, grid.right, grid.top)
        points = np.isin(shapely.get_type_id(geometries), (0, 4))
        meets = shapely.intersects(geometries, ground) & (points | ~shapely.touches(geometries, ground))
        near, geometries = near[meets], geometries[meets]
        order = np.argsort(valued.codes[near], kind="stable")
        near, geometries = near[order], geometries[order]
        return cls(near, geometries, valued.codes[near], grid, shapely.STRtree(geometries))

    def touching(self, tiles: Sequence[tuple[int, ...]], side: int) -> np.ndarray:
        """(2, pairs) position among ``tiles`` (row, column) and among the features, where they share ground."""
        import shapely

        grid = self.grid
        row, column = np.array(tiles, dtype=float).reshape(-1, 2).T
        least = 1e-6 * side  # what only shares a border does not touch
        left, right = (grid.left + grid.pixel_width * (column + c) for c in (least, side - least))
        bottom, top = (grid.top - grid.pixel_height * (row + r) for r in (side - least, least))
        pairs: np.ndarray = self.tree.query(shapely.box(left, bottom, right, top), predicate="intersects")
        return pairs

    def burn(self, window: Grid, touched: bool) -> tuple[np.ndarray, np.ndarray]:
        """(h, w) int64 positions of the features drawn last in ascending and in descending order; -1 for none."""
        import shapely
        from affine import Affine
        from rasterio.features import rasterize

        found = np.sort(self.tree.query(shapely.box(window.left, window.bottom, window.right, window.top)))
        shapes = [(self.geometries[k], int(k) + 1) for k in found]
        size, place = (window.height, window.width), Affine(*window.transform)
        if not shapes:
            return np.full(size, -1), np.full(size, -1)
        highest, lowest = (
            rasterize(some, size, transform=place, all_touched=touched, dtype=np.int32).astype(np.int64) - 1
            for some in (shapes, shapes[::-1])
        )
        return highest, lowest


def _blocks(
    shapes: _Shapes, tiles: Sequence[tuple[int, ...]], side: int, touched: bool, tally: _Tally
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions of some tiles of a scene, and (n, side, side) what is drawn on them, a row of tiles at a time."""
    counted = 0  # rows of pixels: tiles may overlap
    quantity = shapes.codes.dtype.kind == "f"
    for top, row in groupby(range(len(tiles)), key=lambda i: tiles[i][0]):
        members = np.array(list(row))
        lefts = [tiles[i][1] for i in members]
        highest, lowest = shapes.burn(shapes.grid.window(top, 0, side, lefts[-1] + side), touched)
        there = highest >= 0
        if there.any():
            codes = np.append(shapes.codes, np.nan if quantity else -1).astype(shapes.codes.dtype)
            agreed = codes[highest] == codes[lowest]  # position -1, of no feature, is the last code
            drawn = np.where(agreed, codes[highest], codes[-1])
            fresh = slice(max(0, counted - top), None)
            tally.disagreeing += int((there & ~agreed)[fresh].sum())
            tally.labelled += int((there & agreed)[fresh].sum())
            tally.seen.update(*(shapes.numbers[np.unique(which[there])].tolist() for which in (highest, lowest)))
            kept = [k for k, left in enumerate(lefts) if there[:, left : left + side].any()]
            yield members[kept], np.stack([drawn[:, lefts[k] : lefts[k] + side] for k in kept])
        counted = top + side


def _near(features: Any, grid: Grid) -> np.ndarray:
    """Positions of the features that may meet a grid, by their bounds: the others need no reprojection, which is not
    defined everywhere."""
    import shapely
    from rasterio.errors import RasterioError
    from rasterio.warp import transform_bounds

    bounds = shapely.bounds(features.geometries)  # (n, 4)
    try:
        left, bottom, right, top = transform_bounds(
            grid.crs, features.crs.to_wkt(), grid.left, grid.bottom, grid.right, grid.top, densify_pts=21
        )
    except RasterioError:
        return np.arange(len(bounds))
    if not np.isfinite([left, bottom, right, top]).all() or left >= right:  # across the antimeridian
        return np.arange(len(bounds))
    wide, high = 0.05 * (right - left), 0.05 * (top - bottom)
    meets = (bounds[:, 0] <= right + wide) & (bounds[:, 2] >= left - wide)
    meets &= (bounds[:, 1] <= top + high) & (bounds[:, 3] >= bottom - high)
    return np.flatnonzero(meets)


def _remark(valued: Valued, tally: _Tally, resolution: float, touched: bool) -> None:
    features, name = valued.features, valued.features.path.name
    total = len(features)
    if len(tally.inside) < total:
        features.remarks["outside"] = (
            f"labels: {total - len(tally.inside)} of {total} features of {name} lie outside the images"
        )
    if tally.disagreeing:
        features.remarks["disagreeing"] = (
            f"labels: {tally.disagreeing} pixels, {tally.disagreeing / (tally.disagreeing + tally.labelled):.2g} of "
            f"those that features of {name} cover, have no label, because features that overlap there disagree"
        )
    hidden = len(tally.inside) - len(tally.seen)
    if hidden:
        features.remarks["hidden"] = (
            f"labels: {hidden} of {len(tally.inside)} features of {name} inside the images label no pixel of "
            f"{resolution:g} m: they are too small or narrow, covered by others, or beyond the last tile"
            + ("" if touched else "; all_touched: true labels every pixel that a polygon touches")
        )


def _outside(valued: Valued, scenes: Sequence[Scene]) -> str:
    """That no feature meets a scene, with the extents of both."""
    import shapely

    grids = [scene.tiles.grid for scene in scenes if scene.tiles is not None]
    by_crs: dict[str, list[Grid]] = {}
    for grid in grids:
        by_crs.setdefault(grid.crs, []).append(grid)
    images = "; ".join(f"{_bounds(*_extent(own))} in {crs}" for crs, own in by_crs.items())
    features = valued.features
    return (
        f"{features.path}: all {len(features)} features lie outside the images: they are within "
        f"{_bounds(*shapely.total_bounds(features.geometries))} in {features.crs.to_string()}, the images within "
        f"{images} (left, bottom, right, top); check the CRS of both, and whether x and y are swapped"
    )


def _extent(grids: Sequence[Grid]) -> tuple[float, float, float, float]:
    left, bottom = min(grid.left for grid in grids), min(grid.bottom for grid in grids)
    return left, bottom, max(grid.right for grid in grids), max(grid.top for grid in grids)


def _bounds(*numbers: float) -> str:
    return f"({', '.join(f'{number:.10g}' for number in numbers)})"
