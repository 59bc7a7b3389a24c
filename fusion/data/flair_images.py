"""The images of FLAIR #2 and their masks of land cover."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rasterio.crs import CRS
from rasterio.windows import Window

from .files import reading
from .geotiff import Footprint, footprint, pixels_of, require_same_place
from .opening import open_raster
from .tiles import Geo

__all__ = [
    "CROP",
    "IGNORED",
    "LAND_COVER",
    "SIDE",
    "patch_grid",
    "read_aerial",
    "read_classes",
    "require_mask_on_image",
]

LAND_COVER = (
    "building", "pervious surface", "impervious surface", "bare soil", "water", "coniferous", "deciduous", "brushwood",
    "vineyard", "herbaceous", "agricultural", "plowed land", "other",
)  # fmt: skip
IGNORED = 255
SIDE, CROP = 512, 500  # aerial pixels of a file and of a tile
METRES = 0.2  # per aerial pixel
_CRS = CRS.from_epsg(2154)
_CODES = np.full(256, IGNORED, dtype=np.int64)  # 1..12 are classes of their own, 13..19 together the last; 0 is none
_CODES[1:20] = np.minimum(np.arange(1, 20), len(LAND_COVER)) - 1


def patch_grid(path: Path) -> Geo | None:
    """The 10 m patches over the central crop of an image or a mask; None where it says no place.

    Raises:
        ValueError: the file is missing or damaged, not in EPSG:2154, not north up, or not of 0.2 m.
    """
    found = _footprint(path)
    if found is None:
        return None
    left = found.transform.c + found.transform.a * ((SIDE - CROP) // 2)
    top = found.transform.f + found.transform.e * ((SIDE - CROP) // 2)
    return Geo((10.0, 0.0, round(left, 1), 0.0, -10.0, round(top, 1)), "EPSG:2154")


def require_mask_on_image(mask: Path, image: Path) -> None:
    """
    Raises:
        ValueError: the mask lies elsewhere than its image, by more than half a pixel.
    """
    require_same_place(_footprint(image), _footprint(mask), METRES / 2)


def _footprint(path: Path) -> Footprint | None:
    with reading(path), open_raster(path) as image:
        found = footprint(image, path, METRES)
    if found is not None and found.crs is not None:
        # Some files spell the CRS out without its number: it is the same where the same numbers are the same place.
        require_same_place(Footprint(Path("EPSG:2154"), _CRS, found.transform, found.height, found.width), found, 2.0)
    return found


def read_aerial(path: Path, corner: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(5, 500, 500) from a corner, and what of it was observed."""
    return _pixels(path, 5, corner)


def read_classes(path: Path, corner: tuple[int, int] | None) -> np.ndarray:
    """(500, 500) int64 classes from a corner, or (512, 512) of the whole file; 255 without.

    Raises:
        ValueError: values that are no class.
    """
    (values,), (known,) = _pixels(path, 1, corner)
    values = np.where(known, values, 0)
    if values.min() < 0 or values.max() > 19 or (values != np.round(values)).any():
        raise ValueError(f"{path}: values {values.min()}..{values.max()}, classes 1 to 19 wanted (0: no label)")
    codes: np.ndarray = _CODES[values.astype(np.int64)]
    return codes


def _pixels(path: Path, count: int, corner: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """(count, 500, 500) from a corner, or the whole file, and what was observed."""
    with reading(path), open_raster(path) as image:
        if (image.count, image.height, image.width) != (count, SIDE, SIDE):
            raise ValueError(
                f"{path}: {image.count} bands of {image.height} x {image.width} pixels; {count} of {SIDE} x {SIDE} "
                "wanted" + (": red, green, blue, near infrared, height" if count == 5 else "")
            )
        footprint(image, path, METRES)
        return pixels_of(image, path, None if corner is None else Window(corner[1], corner[0], CROP, CROP))
