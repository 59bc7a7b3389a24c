"""Cloud-optimised GeoTIFFs: GDAL's driver for them copies, it cannot be written to block by block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from affine import Affine

__all__ = ["copy_optimised", "small_cache", "tiled_profile"]

_CACHE = 128 * 2**20  # bytes


@contextlib.contextmanager
def small_cache() -> Iterator[None]:
    """GDAL keeps few blocks of what is written once and read once: by default it takes a twentieth of the machine's
    memory. What the user says by ``GDAL_CACHEMAX`` stays."""
    import rasterio

    with contextlib.nullcontext() if os.environ.get("GDAL_CACHEMAX") else rasterio.Env(GDAL_CACHEMAX=_CACHE):
        yield


def tiled_profile(
    size: tuple[int, int], bands: int, dtype: str, nodata: float, transform: Affine, crs: str, side: int
) -> dict[str, Any]:
    """Of a tiled GeoTIFF that is written block by block, of which a cloud-optimised one is made.

    Args:
        size: rows and columns.
        side: pixels per side of a block.
    """
    return {
        "driver": "GTiff",
        "height": size[0],
        "width": size[1],
        "count": bands,
        "dtype": dtype,
        "nodata": nodata,
        "transform": transform,
        "crs": crs or None,
        "bigtiff": "if_safer",
        "tiled": True,
        "blockxsize": side,
        "blockysize": side,
    }


def copy_optimised(plain: Path, finished: Path, **options: Any) -> None:
    """The cloud-optimised copy, compressed without loss.

    Args:
        options: further ones of GDAL's driver COG.

    Raises:
        OSError: it cannot be written.
    """
    from rasterio._err import CPLE_BaseError  # which this one function of rasterio passes on as they are
    from rasterio.errors import RasterioError
    from rasterio.shutil import copy

    try:
        copy(plain, finished, driver="COG", compress="deflate", predictor="yes", bigtiff="if_safer", **options)
    except (RasterioError, CPLE_BaseError) as error:
        raise OSError(str(error)) from error
