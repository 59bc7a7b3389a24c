"""A small archive in the layout of TreeSatAI-TS, for tests of what trains on it."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import rasterio
from rasterio.transform import from_origin

GENERA = ("Abies", "Fagus", "Picea", "Quercus")
S2_DATES = ("20200110", "20200405", "20200611", "20200816", "20201020")
S1_DATES = ("20200103", "20200512", "20200909")


def write_treesat(folder: Path, tiles: int = 16, *, seed: int = 0, single: bool = True) -> list[str]:
    """Writes tiles of true size (304 x 304 aerial pixels, 6 x 6 pixels of series) with few dates; 0.1 MB a tile.

    Every tile has one genus, or two; it is to be seen in the level of all bands. Half of the tiles train, a quarter
    each validates and is tested.

    Args:
        folder: is made; nothing but the archive is in it.
        single: also write the images of one date (``s1/60m``, ``s2/60m``).

    Returns:
        the names of the tiles.
    """
    rng = np.random.default_rng(seed)
    for part in ("aerial", "sentinel-ts", "labels", "s1/60m", "s2/60m"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    names, labels = [f"{GENERA[k % 4]}_{k}" for k in range(tiles)], {}
    for k, name in enumerate(names):
        kinds = sorted({k % 4, int(rng.integers(0, 4))})
        labels[f"{name}.tif"] = [[GENERA[kind], 1 / len(kinds)] for kind in kinds]
        level = sum(kinds) / len(kinds)
        aerial = rng.normal(60 + 40 * level, 8, (4, 304, 304)).clip(1, 255).astype(np.uint8)
        place = from_origin(500_000 + 100 * k, 5_700_000, 0.2, 0.2)
        _write(folder / f"aerial/{name}.tif", aerial, place)
        with h5py.File(folder / f"sentinel-ts/{name}_2020.h5", "w") as file:
            season = np.cos(np.arange(len(S2_DATES)))[:, None, None, None]
            s2 = 1000 + 500 * level + 200 * level * season + rng.normal(0, 40, (len(S2_DATES), 10, 6, 6))
            file["sen-2-data"] = s2.astype(np.float32)
            file["sen-2-masks"] = np.zeros((len(S2_DATES), 2, 6, 6), dtype=np.float32)
            file["sen-2-products"] = [f"S2A_MSIL2A_{day}T102421_N0213_R065_T32ULC" for day in S2_DATES]
            for orbit in ("asc", "des"):
                power = 0.05 * (1 + level) * rng.uniform(0.9, 1.1, (len(S1_DATES), 2, 6, 6))
                file[f"sen-1-{orbit}-data"] = power.astype(np.float32)
                file[f"sen-1-{orbit}-products"] = [f"S1A_IW_GRDH_1SDV_{day}T170841_x" for day in S1_DATES]
        if single:
            coarse = from_origin(500_000 + 100 * k, 5_700_000, 10, 10)
            bands = 1000 + 500 * level + rng.normal(0, 40, (12, 6, 6))
            _write(folder / f"s2/60m/{name}.tif", bands.astype(np.uint16), coarse)
            decibels = np.stack([np.full((6, 6), -12 + level), np.full((6, 6), -18 + level), np.full((6, 6), 1.5)])
            _write(folder / f"s1/60m/{name}.tif", (decibels + rng.normal(0, 0.3, (3, 6, 6))).astype(np.float32), coarse)
    (folder / "labels/TreeSatBA_v9_60m_multi_labels.json").write_text(json.dumps(labels))
    half, quarter = tiles // 2, tiles // 4
    parts = {"train": names[:half], "val": names[half : half + quarter], "test": names[half + quarter :]}
    for split, members in parts.items():
        (folder / f"{split}_filenames.lst").write_text("".join(f"{name}.tif\n" for name in members))
    return names


def _write(path: Path, pixels: np.ndarray, place: rasterio.Affine) -> None:
    bands, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=bands, dtype=pixels.dtype, crs="EPSG:25832",
        transform=place, compress="deflate",
    ) as file:  # fmt: skip
        file.write(pixels)
