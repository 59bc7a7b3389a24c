"""The images of TreeSatAI: aerial, and Sentinel-1 and Sentinel-2 of one date."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from .files import reading
from .series import fill_gaps
from .tiles import Geo
from .treesat_series import BANDS, NOISE, SIDE
from .units import looks_like

__all__ = ["CROP", "PIXELS", "patch_grid", "read_aerial", "read_radar", "read_reflectance"]

PIXELS = 50  # aerial pixels per side of a patch
CROP = SIDE * PIXELS
STORED = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")  # not as in the series


def read_aerial(path: Path, rng: np.random.Generator | None) -> tuple[np.ndarray, Geo]:
    """(4, 300, 300) from the centre, or from anywhere, and the patches over the centre."""
    with reading(path), rasterio.open(path) as image:
        if image.count != 4 or min(image.height, image.width) < CROP:
            raise ValueError(
                f"{path}: {image.count} bands of {image.height} x {image.width} pixels; 4 (near infrared, green, "
                f"blue, red) of at least {CROP} x {CROP} wanted"
            )
        spare = np.array([image.height, image.width]) - CROP
        top, left = spare // 2 if rng is None else rng.integers(0, spare + 1)
        pixels = image.read(window=Window(int(left), int(top), CROP, CROP))
        return pixels.astype(np.float32), patch_grid(image)


def patch_grid(image: rasterio.DatasetReader) -> Geo:
    """The 10 m patches over the central crop of an aerial image."""
    left = image.transform.c + image.transform.a * ((image.width - CROP) // 2)
    top = image.transform.f + image.transform.e * ((image.height - CROP) // 2)
    # The files spell the CRS out without its number.
    return Geo((10.0, 0.0, round(left, 1), 0.0, -10.0, round(top, 1)), "EPSG:25832")


def read_reflectance(path: Path) -> np.ndarray:
    """(10, 6, 6) Sentinel-2 of one date, the bands of the series in their order."""
    values = _read(path, (len(STORED),), ", ".join(STORED))
    return values[[STORED.index(band) for band in BANDS]]


def read_radar(path: Path) -> np.ndarray | None:
    """(2, 6, 6) VV and VH of Sentinel-1 of one date in dB; the third band, a ratio, is left out.

    The public archive has dB, with some pixels far below any echo, which count as missing; linear files are converted.
    None where nothing was observed.
    """
    values = _read(path, (3, 2), "VV, VH and their ratio")[:2]
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
    filled, valid = fill_gaps(values[None])
    return filled[0] if valid[0] else None


def _read(path: Path, counts: tuple[int, ...], bands: str) -> np.ndarray:
    with reading(path), rasterio.open(path) as image:
        if image.count not in counts or (image.height, image.width) != (SIDE, SIDE):
            raise ValueError(
                f"{path}: {image.count} bands of {image.height} x {image.width} pixels; {counts[0]} ({bands}) of "
                f"{SIDE} x {SIDE} wanted"
            )
        pixels: np.ndarray = image.read().astype(np.float32)
    return pixels
