"""A small archive in the layout of FLAIR #2, for tests of its reader and of what trains on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin

LEFT, TOP = 800_000.0, 6_500_000.0  # of the first image, EPSG:2154
DATES = ("2021-01-17", "2021-03-23", "2021-05-11", "2021-07-20", "2021-09-03", "2021-12-02")
CLOUDY = 1  # the date that is wholly under cloud; of the next, the northern half of an area is under snow
TRAIN = ("D004_2021", "D014_2020", "D029_2021")
TEST = ("D012_2019",)
SERIES = (28, 36)  # pixels of 10 m of an area, rows and columns


def write_flair(
    folder: Path,
    *,
    train: Sequence[str] = TRAIN,
    test: Sequence[str] = TEST,
    areas: int = 1,
    images: int = 2,
    seed: int = 0,
    codes: Sequence[int] = (1, 3, 7, 10, 15),
) -> list[str]:
    """Writes images of true size (512 x 512 pixels of 0.2 m) in few, small areas; 0.1 MB an image.

    Blocks of 32 x 32 pixels bear one mask value each: half of ``codes``, drawn image by image; one block is 0, which is
    no label. The value is to be seen in every band of the image, and in level and season of those pixels of Sentinel-2
    that lie under the image. Apart from a little noise values depend on mask value, band and date alone.

    Args:
        folder: is made; nothing but the archive is in it.
        train, test: domains of the training and the test folders.
        areas, images: areas of each domain, and images of each area (at most 4).
        codes: mask values (1 to 19) that occur.

    Returns:
        the names of the tiles, in the order of the reader.
    """
    rng = np.random.default_rng(seed)
    centroids: dict[str, list[int]] = {}
    names = []
    number = 0
    for part, domains in (("train", sorted(train)), ("test", sorted(test))):
        prefix = "flair" if part == "train" else "flair_2"
        for domain in domains:
            for place in range(areas):
                area = f"Z{place + 1}_NN"
                paths = {
                    kind: folder / f"{prefix}_{kind}_{part}" / domain / area / inside
                    for kind, inside in (("aerial", "img"), ("labels", "msk"), ("sen", "sen"))
                }
                for path in paths.values():
                    path.mkdir(parents=True)
                ground = np.full(SERIES, 10)  # the mask value of each pixel of Sentinel-2
                for k in range(images):
                    number += 1
                    mask = blocks(rng, codes)
                    row, column = 8 + 11 * (k // 2), 9 + 14 * (k % 2)
                    centroids[f"IMG_{number:06d}.tif"] = [row, column]
                    ground[row - 5 : row + 5, column - 5 : column + 5] = mask[31:500:50, 31:500:50]
                    corner = from_origin(LEFT + 120 * number, TOP, 0.2, 0.2)
                    write_image(paths["labels"] / f"MSK_{number:06d}.tif", mask[None], corner)
                    write_image(paths["aerial"] / f"IMG_{number:06d}.tif", colours(mask, rng), corner)
                    names.append(f"{domain}_{area}_IMG_{number:06d}")
                write_series(paths["sen"] / f"SEN2_sp_{domain}_{area}", domain[-4:], ground, rng)
    (folder / "flair-2_centroids_sp_to_patch.json").write_text(json.dumps(centroids))
    return names


def blocks(rng: np.random.Generator, codes: Sequence[int]) -> np.ndarray:
    """(512, 512) uint8 mask values."""
    kept = rng.permutation(np.array(codes))[: (len(codes) + 1) // 2]
    values = rng.choice(kept, (16, 16))
    values.flat[: len(kept)] = kept
    values[15, 15] = 0
    return np.kron(values, np.ones((32, 32), dtype=int)).astype(np.uint8)


def colours(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(5, 512, 512) uint8."""
    levels = np.array([[30], [60], [50], [90], [20]]) + np.array([[9], [5], [3], [-2], [7]]) * np.arange(20)
    noise = np.kron(rng.integers(0, 6, (5, 64, 64)), np.ones((1, 8, 8), dtype=int))
    return (levels[:, mask] + noise).astype(np.uint8)


def write_image(path: Path, values: np.ndarray, corner: rasterio.Affine) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", width=512, height=512, count=len(values), dtype="uint8", crs="EPSG:2154",
        transform=corner, compress="deflate",
    ) as image:  # fmt: skip
        image.write(values)


def write_series(stem: Path, year: str, ground: np.ndarray, rng: np.random.Generator) -> None:
    """Data, masks and products of one area."""
    season = np.arange(len(DATES))[:, None, None]
    green = np.exp(-(((season - 2 - ground % 4) / 1.5) ** 2))  # (dates, h, w)
    level = 400 + 30 * ground + np.zeros_like(green)
    bands = [level + (200 * band if band < 3 else 300 * band * (0.3 + green)) for band in range(10)]
    values = np.stack(bands, axis=1)
    data = (values + rng.normal(0, 20, values.shape)).clip(1).astype(np.uint16)
    masks = rng.integers(0, 20, (len(DATES), 2, *ground.shape)).astype(np.uint8)  # snow, cloud probability
    masks[CLOUDY, 1] = 90
    masks[CLOUDY + 1, 0, : ground.shape[0] // 2] = 60
    np.save(f"{stem}_data.npy", data)
    np.save(f"{stem}_masks.npy", masks)
    days = [year + date[4:].replace("-", "") for date in DATES]
    products = [f"S2A_MSIL2A_{day}T104351_N0214_R008_T31TGN_{day}T131000.SAFE" for day in days]
    Path(f"{stem}_products.txt").write_text("\n".join(products) + "\n")
