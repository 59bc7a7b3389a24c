"""Where a patch of PASTIS-HD lies, from its outline in Lambert 93."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as project

from .geotiff import Footprint
from .tiles import Geo

__all__ = ["NEAR", "PIXELS", "outline_of", "place_of"]

SIDE, PIXELS = 1280.0, 128  # metres and 10 m pixels per side of a patch
OUTLINES = "EPSG:2154"
NEAR = 20.0  # metres between the middles of a patch's files: half a patch of the grid
STRAIGHT = math.radians(0.5)  # outlines that are drawn in steps tell the angle no better


def place_of(geometry: Any, tile: Any) -> Geo | None:
    """The 10 m pixels of a patch; None where its outline is no square of 1280 m.

    Patches are squares of the Sentinel-2 grid (UTM), which may be turned by some degrees in Lambert 93. Such a patch is
    placed in UTM, in whose grid of 10 m it lies straight, so that maps can be made of it.

    Args:
        geometry: of the feature, in Lambert 93.
        tile: the Sentinel-2 tile, e.g. ``"T31TFM"``, which tells the zone; without it the longitude does.
    """
    transform = _transform(geometry)
    if transform is None:
        return None
    a, b, c, d, e, f = transform
    if not b and not d:
        return Geo(transform, OUTLINES)
    columns, rows = np.array([0, PIXELS, PIXELS / 2]), np.array([0, 0, PIXELS / 2])  # upper corners, centre
    outline = (a * columns + b * rows + c).tolist(), (d * columns + e * rows + f).tolist()
    named = re.fullmatch(r"T?(\d\d)[A-Z]{3}", str(tile))
    zone = int(named[1]) if named else int(project(OUTLINES, "EPSG:4326", *outline)[0][2] // 6) + 31
    crs = f"EPSG:{32600 + zone}"
    x, y = project(OUTLINES, crs, *outline)
    if abs(math.atan2(y[1] - y[0], x[1] - x[0])) > STRAIGHT:
        return Geo(transform, OUTLINES)
    left, top = (10.0 * round((middle + sign * SIDE / 2) / 10) for middle, sign in ((x[2], -1), (y[2], 1)))
    return Geo((10.0, 0.0, left, 0.0, -10.0, top), crs)


def outline_of(place: Geo | None) -> Footprint | None:
    """The ground of a whole patch as the metadata have it, which may be turned; its middle is what counts."""
    if place is None:
        return None
    return Footprint(Path("metadata.geojson"), CRS.from_string(place.crs), Affine(*place.transform), PIXELS, PIXELS)


def _transform(geometry: Any) -> tuple[float, float, float, float, float, float] | None:
    """Of the 10 m pixels of a square of 1280 m; None where the outline is no such square.

    It may be turned, for patches are squares of the Sentinel-2 grid (UTM) and outlines are in Lambert 93, and it may be
    drawn in steps: centre and side are those of its area, and the four outermost points tell how it is turned.
    """
    try:
        polygons = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        rings = [np.array([point[:2] for point in polygon[0]], dtype=np.float64) for polygon in polygons]
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if not rings or any(ring.ndim != 2 or len(ring) < 4 for ring in rings):
        return None
    first = rings[0][0]  # large coordinates cost digits
    area, centre = _area_and_centre([ring - first for ring in rings])
    side = float(np.sqrt(area))
    if abs(side / SIDE - 1) > 0.02:
        return None
    x, y = (np.concatenate(rings) - first - centre).T
    points = x + 1j * y  # complex numbers turn easily: times -1j is from right to down
    upper_left, upper_right = points[(y - x).argmax()], points[(x + y).argmax()]
    lower_left, lower_right = points[(x + y).argmin()], points[(x - y).argmax()]
    right = upper_right - upper_left + lower_right - lower_left
    right += 1j * (lower_left - upper_left + lower_right - upper_right)
    right *= side / abs(right)  # the whole upper edge
    corner = (1j * right - right) / 2  # upper left
    seen, square = (upper_left, upper_right, lower_right, lower_left), (corner, -1j * corner, -corner, 1j * corner)
    if max(abs(a - b) for a, b in zip(seen, square, strict=True)) > 0.03 * SIDE:
        return None
    step = right / PIXELS
    left, top = first + centre + [corner.real, corner.imag]
    a, b, c, d, e, f = (float(np.round(v, 6)) for v in (step.real, step.imag, left, step.imag, -step.real, top))
    return a + 0.0, b + 0.0, c, d + 0.0, e, f  # no -0.0


def _area_and_centre(rings: list[np.ndarray]) -> tuple[float, np.ndarray]:
    """Of polygons (n, 2) without holes."""
    area, moment = 0.0, np.zeros(2)
    for x, y in (ring.T for ring in rings):
        after_x, after_y = np.roll(x, -1), np.roll(y, -1)
        cross = x * after_y - after_x * y
        cross *= np.sign(cross.sum())  # whichever way round
        area += cross.sum() / 2
        moment += np.array([((x + after_x) * cross).sum(), ((y + after_y) * cross).sum()]) / 6
    return area, moment / area if area else moment
