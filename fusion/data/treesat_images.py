"""The images of TreeSatAI: aerial, and Sentinel-1 and Sentinel-2 of one date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.windows import Window

from .files import reading
from .geotiff import Footprint, footprint, pixels_of, require_same_place
from .opening import open_raster
from .series import fill_gaps
from .tiles import Geo
from .treesat_series import BANDS, NOISE, SIDE
from .units import looks_like

__all__ = ["CROP", "NEAR", "PIXELS", "aerial_footprint", "patch_grid", "read_aerial", "read_radar", "read_reflectance"]

PIXELS = 50  # aerial pixels per side of a patch
CROP = SIDE * PIXELS
NEAR = 12.0  # metres between the middles of an aerial image and the pixels of 10 m, which are on a grid of their own
METRES = {"aerial": 0.2, "coarse": 10.0}  # per pixel
_CRS = CRS.from_epsg(25832)
STORED = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")  # not as in the series


def read_aerial(path: Path, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray, Geo | None]:
    """(4, 300, 300) from the centre, or from anywhere, what of it was observed, and the patches over the centre."""
    with reading(path), open_raster(path) as image:
        if image.count != 4 or min(image.height, image.width) < CROP:
            raise ValueError(
                f"{path}: {image.count} bands of {image.height} x {image.width} pixels; 4 (near infrared, green, "
                f"blue, red) of at least {CROP} x {CROP} wanted"
            )
        spare = np.array([image.height, image.width]) - CROP
        top, left = spare // 2 if rng is None else rng.integers(0, spare + 1)
        pixels, observed = pixels_of(image, path, Window(int(left), int(top), CROP, CROP))
        return pixels, observed, patch_grid(image, path)


def aerial_footprint(image: rasterio.DatasetReader, path: Path) -> Footprint | None:
    """Where an aerial image lies, see :func:`~fusion.data.geotiff.footprint`.

    Raises:
        ValueError: not in EPSG:25832, or what it refuses.
    """
    found = footprint(image, path, METRES["aerial"])
    if found is not None and found.crs is not None:
        # Some files spell the CRS out without its number: it is the same where the same numbers are the same place.
        require_same_place(Footprint(Path("EPSG:25832"), _CRS, found.transform, found.height, found.width), found, 2.0)
    return found


def patch_grid(image: rasterio.DatasetReader, path: Path) -> Geo | None:
    """The 10 m patches over the central crop of an aerial image; None where it says no place."""
    if aerial_footprint(image, path) is None:
        return None
    left = image.transform.c + image.transform.a * ((image.width - CROP) // 2)
    top = image.transform.f + image.transform.e * ((image.height - CROP) // 2)
    return Geo((10.0, 0.0, round(left, 1), 0.0, -10.0, round(top, 1)), "EPSG:25832")


def read_reflectance(path: Path, aerial: Footprint | None = None) -> np.ndarray | None:
    """(10, 6, 6) Sentinel-2 of one date, the bands of the series in their order; None where too little was observed."""
    values = _read(path, (len(STORED),), ", ".join(STORED), aerial)
    filled, valid = fill_gaps(values[[STORED.index(band) for band in BANDS]][None], name="s2-mono")
    return filled[0] if valid[0] else None


def read_radar(path: Path, aerial: Footprint | None = None) -> np.ndarray | None:
    """(2, 6, 6) VV and VH of Sentinel-1 of one date in dB; the third band, a ratio, is left out.

    The public archive has dB, with some pixels far below any echo, which count as missing; linear files are converted.
    None where nothing was observed.
    """
    values = _read(path, (3, 2), "VV, VH and their ratio", aerial)[:2]
    floor = 10 * np.log10(NOISE)
    observed = values[np.isfinite(values) & (values > 10 * floor)]
    seen = looks_like(observed)
    if seen == "0..1":
        values = 10 * np.log10(np.where(values < NOISE, np.nan, values))
    elif seen not in ("dB", "nothing observed"):
        raise ValueError(
            f"{path}: values {observed.min():.4g}..{observed.max():.4g} look like {seen}; backscatter in dB wanted, as "
            "the public archive has it, or linear"
        )
    values[~(values >= floor)] = np.nan
    filled, valid = fill_gaps(values[None], name="s1-mono")
    return filled[0] if valid[0] else None


def _read(path: Path, counts: tuple[int, ...], bands: str, aerial: Footprint | None) -> np.ndarray:
    """(C, 6, 6) float32, NaN where nothing was observed."""
    with reading(path), open_raster(path) as image:
        if image.count not in counts or (image.height, image.width) != (SIDE, SIDE):
            raise ValueError(
                f"{path}: {image.count} bands of {image.height} x {image.width} pixels; {counts[0]} ({bands}) of "
                f"{SIDE} x {SIDE} wanted"
            )
        require_same_place(aerial, footprint(image, path, METRES["coarse"]), NEAR)
        pixels, observed = pixels_of(image, path)
    return np.where(observed, pixels, np.nan).astype(np.float32)
