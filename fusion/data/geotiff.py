"""GeoTIFFs of the published archives: their pixels with what is missing in them, and the ground they lie on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as project
from rasterio.windows import Window

from .series import fill_gaps
from .tiles import Tile

__all__ = ["Footprint", "footprint", "pixels_of", "put_image", "require_same_place"]

_SAME_SIZE = 0.02  # of pixels, relative


@dataclass(frozen=True)
class Footprint:
    """The ground under a raster; north is up and nothing is turned.

    Attributes:
        crs: None where the file does not say it.
    """

    path: Path
    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def centre(self) -> tuple[float, float]:
        a, b, c, d, e, f = tuple(self.transform)[:6]
        column, row = self.width / 2, self.height / 2
        return a * column + b * row + c, d * column + e * row + f

    @property
    def named_crs(self) -> str:
        if self.crs is None:
            return "no CRS"
        number = self.crs.to_epsg()
        return f"EPSG:{number}" if number else self.crs.to_string()[:60]


def footprint(image: rasterio.DatasetReader, path: Path, metres: float) -> Footprint | None:
    """Where an open raster with pixels of ``metres`` lies; None where the file does not say it.

    Raises:
        ValueError: rows that run from south to north, a rotated raster, or pixels of another size: what is read of it
            would lie elsewhere than the other modalities of its tile.
    """
    a, b, _, d, e, _ = tuple(image.transform)[:6]
    if image.transform.is_identity:
        return None
    if b or d or a <= 0 or e >= 0:
        raise ValueError(
            f"{path}: its rows do not run from north to south and its columns from west to east, the transform is "
            f"{tuple(round(v, 9) for v in (a, b, d, e))}; the archive's files are north up, warp it with gdalwarp"
        )
    if max(abs(a / metres - 1), abs(-e / metres - 1)) > _SAME_SIZE:
        raise ValueError(
            f"{path}: pixels of {a:g} x {-e:g} ({'no CRS' if image.crs is None else image.crs.to_string()[:60]}); "
            f"{metres:g} m wanted, take the archive's own file"
        )
    return Footprint(path, image.crs, image.transform, image.height, image.width)


def require_same_place(one: Footprint | None, other: Footprint | None, metres: float) -> None:
    """Nothing, where the middles of both lie within ``metres`` of each other, or one of them has no place.

    Raises:
        ValueError: they lie elsewhere; the message has both middles and what they are in.
    """
    if one is None or other is None or (one.crs is None) != (other.crs is None):
        return
    (x, y), (u, v) = one.centre, other.centre
    if one.crs is not None and other.crs is not None and one.crs != other.crs:
        try:
            found = project(other.crs, one.crs, [u], [v])
            u, v = float(found[0][0]), float(found[1][0])
        except (RasterioError, CRSError):  # a CRS that PROJ cannot connect with the other
            u, v = np.inf, np.inf
    if not max(abs(x - u), abs(y - v)) <= metres:
        a, b = other.centre
        raise ValueError(
            f"{other.path}: lies elsewhere than {one.path}: its middle is {a:.1f}, {b:.1f} ({other.named_crs}), that "
            f"of the other {x:.1f}, {y:.1f} ({one.named_crs}); take both from the same archive"
        )


def pixels_of(image: rasterio.DatasetReader, path: Path, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (C, h, w) as they are stored, and bool of the same shape: False for the nodata value and under a mask.

    An alpha band is no mask here: GDAL takes the fourth of four 8 bit bands for one, which in these archives it is not.

    Raises:
        ValueError: numbers that are packed by a scale or an offset, which no file of these archives has.
    """
    packed = [k for k in range(image.count) if (image.scales[k], image.offsets[k]) != (1, 0)]
    if packed:
        raise ValueError(
            f"{path}: band {packed[0] + 1} has scale {image.scales[packed[0]]} and offset {image.offsets[packed[0]]}, "
            "which the archive's files have not; unpack it with gdal_translate -unscale"
        )
    pixels: np.ndarray = image.read(window=window)
    observed = np.ones(pixels.shape, dtype=bool)
    for k, flags in enumerate(image.mask_flag_enums):
        if MaskFlags.alpha not in flags and MaskFlags.all_valid not in flags:
            observed[k] = image.read_masks(k + 1, window=window) > 0
    if pixels.dtype.kind == "f":
        observed &= np.isfinite(pixels)
    return pixels, observed


def put_image(tile: Tile, name: str, pixels: np.ndarray, observed: np.ndarray) -> None:
    """Gives a tile the image (C, h, w), with the mean of the band where it was not observed, and what was observed.

    With more than half of a band missing the tile does not have the image.
    """
    values = pixels.astype(np.float32)
    if not observed.all():
        # Infinite values stay for `fill_gaps`, which counts them.
        filled, valid = fill_gaps(np.where(observed | np.isinf(values), values, np.float32(np.nan))[None], name=name)
        if not valid[0]:
            return
        values = filled[0]
        tile.observed[name] = torch.from_numpy(observed)
    tile.values[name] = torch.from_numpy(values)
