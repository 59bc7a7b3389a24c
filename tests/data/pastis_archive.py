"""A small archive in the layout of PASTIS-HD, for tests of its reader and of what trains on it."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

LEFT, TOP = 640_000, 6_860_000  # of the first patch, EPSG:2154
FIRST = 10_000  # number of the first patch
DATES = {
    "S2": ("2018-09-24", "2018-11-13", "2019-03-18", "2019-05-22", "2019-07-16", "2019-10-04"),
    "S1A": ("2018-09-03", "2019-01-13", "2019-04-20", "2019-06-25", "2019-08-30"),
    "S1D": ("2018-09-06", "2019-02-03", "2019-05-10", "2019-09-14"),
}


def write_pastis(
    folder: Path,
    patches: int = 6,
    *,
    seed: int = 0,
    crops: Sequence[int] = (1, 2, 3, 4, 8, 13),
    without_descending: Collection[int] = (5,),
    dates_as_text: Collection[int] = (1,),
) -> list[str]:
    """Writes patches of true size (128 x 128 pixels of 10 m, 1280 x 1280 of 1 m) with few dates; 3 MB a patch.

    Patch k has fold 1 + k % 5. Fields of 16 x 16 pixels bear one class each: half of ``crops``, drawn patch by patch,
    background and void. The class is to be seen in every modality: in the level of red, near infrared and backscatter,
    in the season of Sentinel-2, and in the colour of SPOT. Apart from a little noise values depend on class, band and
    date alone.

    Args:
        folder: is made; nothing but the archive is in it.
        patches: at least 5, so that no fold is empty.
        crops: codes of the classes (1 to 18) that occur.
        without_descending: numbers k of patches without a file of the descending orbit.
        dates_as_text: numbers k of patches whose dictionaries of dates are JSON text.

    Returns:
        the names of the patches.
    """
    rng = np.random.default_rng(seed)
    spot = "DATA_SPOT/PASTIS_SPOT6_RVB_1M00_2019"
    for part in ("ANNOTATIONS", "DATA_S2", "DATA_S1A", "DATA_S1D", spot):
        (folder / part).mkdir(parents=True, exist_ok=True)
    features = []
    for k in range(patches):
        name, left = str(FIRST + k), LEFT + 2000 * k
        kept = rng.permutation(np.array(crops))[: (len(crops) + 1) // 2]
        codes = np.concatenate([kept, kept, kept, [0, 19]])
        fields = rng.choice(codes, (8, 8))
        fields.flat[: len(codes)] = codes  # each at least once
        classes = np.kron(fields, np.ones((16, 16), dtype=np.uint8)).astype(np.uint8)
        np.save(folder / f"ANNOTATIONS/TARGET_{name}.npy", np.stack([classes, classes // 2, classes // 3]))
        np.save(folder / f"DATA_S2/S2_{name}.npy", reflectance(classes, rng))
        for part in ("S1A", "S1D"):
            if part == "S1A" or k not in without_descending:
                np.save(folder / f"DATA_{part}/{part}_{name}.npy", backscatter(classes, len(DATES[part]), rng))
        colours = np.stack([20 + 10 * classes, 215 - 9 * classes, 40 + 5 * classes]).astype(np.uint8)
        with rasterio.open(
            folder / spot / f"SPOT6_RVB_1M00_2019_{name}.tif", "w", driver="GTiff", width=1280, height=1280, count=3,
            dtype="uint8", crs="EPSG:2154", transform=from_origin(left, TOP, 1, 1), compress="deflate",
        ) as image:  # fmt: skip
            image.write(colours.repeat(10, axis=1).repeat(10, axis=2))
        dates = {
            f"dates-{part}": {str(i): int(d.replace("-", "")) for i, d in enumerate(DATES[part])} for part in DATES
        }
        square = [[left, TOP - 1280], [left, TOP], [left + 1280, TOP], [left + 1280, TOP - 1280], [left, TOP - 1280]]
        features.append(
            {
                "type": "Feature",
                "id": name,
                "properties": {"ID_PATCH": FIRST + k, "Fold": 1 + k % 5}
                | ({key: json.dumps(value) for key, value in dates.items()} if k in dates_as_text else dates),
                "geometry": {"type": "MultiPolygon", "coordinates": [[square]]},
            }
        )
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::2154"}}
    collection = {"type": "FeatureCollection", "crs": crs, "features": features}
    (folder / "metadata.geojson").write_text(json.dumps(collection))
    return [str(FIRST + k) for k in range(patches)]


def reflectance(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(dates, 10, h, w) int16: green more or less, and at another time of the year, from class to class."""
    season = np.arange(len(DATES["S2"]))[:, None, None]
    green = np.exp(-(((season - classes % 6) / 1.5) ** 2))  # (dates, h, w)
    level = 400 + 40 * classes.astype(float) + np.zeros_like(green)
    bands = [level + (250 * band if band < 3 else 350 * band * (0.3 + green)) for band in range(10)]
    values = np.stack(bands, axis=1)
    return (values + rng.normal(0, 20, values.shape)).clip(1).astype(np.int16)


def backscatter(classes: np.ndarray, dates: int, rng: np.random.Generator) -> np.ndarray:
    """(dates, 3, h, w) float16 in dB: VV, VH and their difference."""
    vv = -14 + 0.4 * classes + rng.normal(0, 0.3, (dates, *classes.shape))
    vh = -20 + 0.2 * classes + rng.normal(0, 0.3, (dates, *classes.shape))
    return np.stack([vv, vh, vv - vh], axis=1).astype(np.float16)
