"""Cloud-optimised GeoTIFFs of vectors, whose overviews are means of vectors and not of codes.

GDAL's driver for such files copies: its input is a tiled GeoTIFF. Overviews are computed here and handed to the driver
by a virtual raster. Those of int8 codes, which are no linear scale, are as AlphaEarth's: the mean of the vectors of all
pixels below, of length 1 again. Those of float32 are the mean; the driver would average band by band, and read the
whole file once a band.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..codec import Dtype, as_stored, decoded
from .optimised import copy_optimised

__all__ = ["write_optimised"]

_LEVEL = 1  # of deflate: 6 takes twice the time and saves 3 % of a float32 file, 2 % of an int8 one
_READ = 256  # pixels per side that are decoded at a time


def write_optimised(plain: Path, finished: Path, side: int) -> None:
    """Writes the cloud-optimised copy of a raster of vectors, a band a dimension.

    Args:
        plain: tiled GeoTIFF, float32 or int8 in AlphaEarth's mapping; files of its folder whose names begin alike are
            written.
        side: pixels per side of a block.

    Raises:
        OSError: the copy cannot be written.
    """
    import rasterio

    with rasterio.open(plain) as file:
        size = file.shape
    levels = [_write_level(plain, factor, side) for factor in _factors(size, side)]
    copy_optimised(_virtual(plain, levels), finished, level=_LEVEL, blocksize=side, num_threads="all_cpus")


def _factors(size: tuple[int, int], side: int) -> list[int]:
    """2, 4, ... until an overview is one block."""
    factors: list[int] = []
    while max(size) / 2 ** len(factors) > side:
        factors.append(2 ** (len(factors) + 1))
    return factors


def _write_level(plain: Path, factor: int, side: int) -> Path:
    """The overview of which a pixel is ``factor`` x ``factor`` pixels of the raster."""
    import rasterio
    from rasterio.windows import Window

    path = plain.with_name(f"{plain.stem}-{factor}.tif")
    with rasterio.open(plain) as file:
        rows, columns = (-(-n // factor) for n in file.shape)
        dtype: Dtype = "int8" if file.dtypes[0] == "int8" else "float32"
        profile: dict[str, Any] = file.profile | {"height": rows, "width": columns}
        profile["transform"] = file.transform @ file.transform.scale(factor)
        with rasterio.open(path, "w", **profile) as level:
            for top in range(0, rows, side):
                for left in range(0, columns, side):
                    shape = min(side, rows - top), min(side, columns - left)
                    vectors = _mean(file, top * factor, left * factor, shape, factor)
                    window = Window(left, top, shape[1], shape[0])
                    level.write(np.moveaxis(as_stored(vectors, dtype), -1, 0), window=window)
    return path


def _mean(file: Any, top: int, left: int, shape: tuple[int, int], factor: int) -> np.ndarray:
    """(rows, columns, D) means of the decoded vectors of squares of pixels, NaN where none has data."""
    sums = np.zeros((file.count, *shape), dtype=np.float32)  # (D, rows, columns), as GDAL reads
    counts = np.zeros(shape, dtype=np.int64)
    bottom, right = (min(start + n * factor, end) for start, n, end in zip((top, left), shape, file.shape, strict=True))
    for rows in _spans(top, bottom):
        for columns in _spans(left, right):
            vectors = decoded(file.read(window=((rows.start, rows.stop), (columns.start, columns.stop))))
            known = ~np.isnan(vectors).any(axis=0)
            vectors[:, ~known] = 0
            below = min(factor, _READ)  # of a square that is larger than what is read this is a part
            counts_here = _sums(known.astype(np.int64), below)
            first = (rows.start - top) // factor, (columns.start - left) // factor
            here = tuple(slice(begin, begin + n) for begin, n in zip(first, counts_here.shape, strict=True))
            sums[:, *here] += _sums(vectors, below)
            counts[here] += counts_here
    with np.errstate(invalid="ignore"):
        means = sums / np.where(counts == 0, np.nan, counts).astype(np.float32)
    return np.moveaxis(means, 0, -1)


def _sums(values: np.ndarray, side: int) -> np.ndarray:
    """(..., rows, columns) -> the sums of squares of ``side`` x ``side`` values, at the lower and right border of what
    there is of them."""
    for axis in (-2, -1):
        parts = [values[..., k::side, :] if axis == -2 else values[..., k::side] for k in range(side)]
        total = parts[0].copy()
        for part in parts[1:]:
            here = total[..., : part.shape[-2], : part.shape[-1]]
            here += part
        values = total
    return values


def _spans(first: int, last: int) -> Iterator[slice]:
    yield from (slice(start, min(start + _READ, last)) for start in range(first, last, _READ))


def _virtual(plain: Path, levels: list[Path]) -> Path:
    """A VRT that has the raster and its overviews."""
    from rasterio.shutil import copy

    path = plain.with_suffix(".vrt")
    copy(plain, path, driver="VRT")
    tree = ElementTree.parse(path)
    for number, band in enumerate(tree.getroot().iter("VRTRasterBand"), start=1):
        for level in levels:
            overview = ElementTree.SubElement(band, "Overview")
            ElementTree.SubElement(overview, "SourceFilename", relativeToVRT="1").text = level.name
            ElementTree.SubElement(overview, "SourceBand").text = str(number)
    tree.write(path)
    return path
