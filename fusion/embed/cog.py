"""Maps that a GIS shows as they are: cloud-optimised GeoTIFF with overviews, colours and names of classes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape

import numpy as np
from affine import Affine

from ..training.files import write_atomically
from .formats.array_file import Windows
from .formats.chunks import windows
from .formats.optimised import copy_optimised, small_cache, tiled_profile
from .formats.temporary import beside, replacing
from .style import class_colours

__all__ = ["Sheet", "write_cog"]

_BLOCK = 256


@dataclass(frozen=True)
class Sheet:
    """How values become the bands of one raster.

    Attributes:
        store: from (rows, columns, D) float32, NaN where there is no data, to (bands, rows, columns) as they lie in the
            file.
        bands: names.
        nodata: what is stored where there is no data.
        scale: what a stored number is multiplied by; GDAL knows it as the scale of the bands.
        categories: names of the numbers 0, 1, ... of a band of classes, which get a colour each.
        tags: of the file.
        together: bands are in one unit, and are drawn in one scale of colours.
    """

    store: Callable[[np.ndarray], np.ndarray]
    bands: tuple[str, ...]
    dtype: Literal["uint8", "float32"]
    nodata: float
    scale: float = 1.0
    categories: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    together: bool = False


@small_cache()
def write_cog(path: Path, values: Windows, sheet: Sheet, transform: Affine, crs: str) -> None:
    """Writes ``values`` (rows, columns, D) block by block, and reads every block back.

    TIFF has no place for the names of classes; they go into ``path`` with ``.aux.xml`` added, where GDAL, and QGIS by
    it, looks for them.

    Raises:
        RuntimeError: the file cannot be written, or what is on disk is not what was written.
    """
    import rasterio
    from rasterio.windows import Window

    rows, columns, _ = values.shape
    bands = len(sheet.bands)
    profile = tiled_profile((rows, columns), bands, sheet.dtype, sheet.nodata, transform, crs, _BLOCK)
    with replacing(path) as finished, tempfile.TemporaryDirectory(**beside(path)) as folder:
        plain = Path(folder) / "blocks.tif"
        with rasterio.open(plain, "w", **profile) as file:
            for here in windows(rows, columns, (_BLOCK, _BLOCK)):
                file.write(sheet.store(np.asarray(values[here])), window=Window.from_slices(*here))
            _describe(file, sheet)
        copy_optimised(plain, finished, overview_resampling="mode" if sheet.categories else "average")
        with rasterio.open(finished) as file:
            for here in windows(rows, columns, (_BLOCK, _BLOCK)):
                kept, wanted = file.read(window=Window.from_slices(*here)), sheet.store(np.asarray(values[here]))
                if not np.array_equal(kept, wanted, equal_nan=sheet.dtype == "float32"):
                    raise RuntimeError(
                        f"{path}: what is on disk differs from what was written; the disk may be full or faulty"
                    )
    names = path.with_name(f"{path.name}.aux.xml")
    if sheet.categories:
        write_atomically(names, _category_names(sheet.categories).encode())
    else:
        names.unlink(missing_ok=True)  # of an earlier map of classes


def _describe(file: Any, sheet: Sheet) -> None:
    for number, name in enumerate(sheet.bands, start=1):
        file.set_band_description(number, name)
    if sheet.scale != 1:
        file.scales = (sheet.scale,) * len(sheet.bands)
    if sheet.categories:
        file.write_colormap(1, class_colours(len(sheet.categories)))
    file.update_tags(**sheet.tags)


def _category_names(names: tuple[str, ...]) -> str:
    """GDAL's auxiliary file: the names of the numbers of band 1."""
    listed = "".join(f"      <Category>{escape(name)}</Category>\n" for name in names)
    return (
        f'<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n{listed}    </CategoryNames>\n'
        "  </PAMRasterBand>\n</PAMDataset>\n"
    )
