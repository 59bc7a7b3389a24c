"""Where the time of a map of embeddings goes: waiting for tiles, encoding, the rest (averaging, compressing, checking
the file).

    python benchmarks/map_stages.py [--side 384] [--threads 1] [--precision float32] [--save]

A season of 12 dates of four bands, once as a GeoTIFF a date and once as a Zarr; OmniSat "tiny" and "small" with random
weights, tiles of 6 x 6 patches of a pixel that overlap by a quarter. Read with neighbours together, as maps are, and
one tile at a time. The model has ``--threads``; another one reads ahead. ``--save`` keeps the rows in
``results/<device>/``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import xarray as xr
from affine import Affine
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import keep  # noqa: E402
from fusion.data import FolderDataset, Modality, TileDataset  # noqa: E402
from fusion.data.folder.scene_tiles import SceneTiles  # noqa: E402
from fusion.embed import embed_map  # noqa: E402
from fusion.embed.blend import Told  # noqa: E402
from fusion.embed.precision import Precision  # noqa: E402
from fusion.omnisat import OmniSat, OmniSatConfig  # noqa: E402

BANDS, UNIT, DATES = ("B02", "B03", "B04", "B08"), "reflectance x 10000", 12
S2 = Modality("s2", "series", BANDS, 10.0, 1, UNIT, (1700.0,) * 4, (900.0,) * 4)
_SOURCE = {"bands": list(BANDS), "resolution": 10, "unit": UNIT}


def days_of(dates: int) -> list[str]:
    """ISO dates over half a year."""
    return [str(np.datetime64("2021-04-01") + 180 * k // dates) for k in range(dates)]


def zarr_description(days: list[str]) -> dict[str, Any]:
    """Of the Zarr that :func:`write_ground` writes, in tiles of 60 m."""
    return _described(_SOURCE | {"files": "cube.zarr", "variable": "s2", "dates": days})


def covering(description: dict[str, Any], folder: Path, **options: int) -> FolderDataset:
    """Tiles that cover the ground, overlapping."""
    return FolderDataset(description, folder, labels=False, **options).covering()


def write_ground(folder: Path, side: int, dates: int = DATES) -> dict[str, FolderDataset]:
    """The same season in both formats, with the sizes of chunks that are usual, opened."""
    days = days_of(dates)
    rng = np.random.default_rng(0)
    fields = np.kron(rng.uniform(200, 3000, (4, side // 8, side // 8)), np.ones((8, 8)))
    season = 1 + 0.2 * np.sin(np.arange(dates))[:, None, None, None]
    values = (fields * season + rng.normal(0, 30, (dates, 4, side, side))).clip(1, 10_000).astype(np.uint16)
    profile = {"driver": "GTiff", "height": side, "width": side, "count": 4, "dtype": "uint16", "crs": "EPSG:32631"}
    profile |= {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
    for name, image in zip(days, values, strict=True):
        with rasterio.open(
            folder / f"s2_{name}.tif", "w", transform=Affine(10, 0, 5e5, 0, -10, 5.6e6), **profile
        ) as file:
            file.write(image)
    y, x = 5.6e6 - 10 * (np.arange(side) + 0.5), 5e5 + 10 * (np.arange(side) + 0.5)
    cube = xr.DataArray(values, {"y": y, "x": x}, ("time", "band", "y", "x"), "s2", {"crs": "EPSG:32631"})
    cube.chunk({"time": dates, "band": 4, "y": 128, "x": 128}).to_dataset().to_zarr(folder / "cube.zarr", zarr_format=2)
    return {
        "GeoTIFF a date": covering(_described(_SOURCE | {"files": "s2_{date}.tif"}), folder, memory=0),
        "Zarr": covering(zarr_description(days), folder, memory=0),
    }


def _described(modality: dict[str, Any]) -> dict[str, Any]:
    return {"files": "{scene}.tif", "tile": 60, "patch": 10, "modalities": {"s2": modality}}


def measured(
    model: nn.Module, tiles: FolderDataset, out: Path, *, waiting: bool = False, precision: Precision = "float32"
) -> dict[str, float]:
    """Seconds of each stage of one map.

    Args:
        waiting: count as reading only what the model waits for tiles, which another thread reads ahead.
    """
    spent = {"read": 0.0, "encode": 0.0}
    reading = waited(spent, "read") if waiting else timed(SceneTiles, "gather", spent, "read")
    started = time.perf_counter()
    with reading, timed(model, "forward", spent, "encode"):
        embed_map(model, tiles, out, restart=True, precision=precision)
    whole = time.perf_counter() - started
    return spent | {"rest": whole - sum(spent.values()), "whole": whole}


@contextmanager
def timed(owner: Any, name: str, spent: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds of every call of a method to those of a stage."""
    usual = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        started = time.perf_counter()
        result = usual(*arguments, **options)
        spent[stage] += time.perf_counter() - started
        return result

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, usual)


@contextmanager
def waited(spent: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the seconds in which whoever makes a map waits for its tiles to those of a stage."""
    usual = Told._read

    def read(told: Told, tiles: TileDataset) -> Iterator[Any]:
        batches = usual(told, tiles)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            spent[stage] += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    Told._read = read  # type: ignore[method-assign]
    try:
        yield
    finally:
        Told._read = usual  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=384, help="pixels")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="float32")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ground = write_ground(Path(folder), options.side)
        for size in ("tiny", "small"):
            torch.manual_seed(0)
            model = OmniSat(OmniSatConfig.preset(size, [S2], (6, 6))).eval()
            for source, tiles in ground.items():
                together = SceneTiles.gather
                for how, gather in (("together", together), ("one by one", TileDataset.gather)):
                    SceneTiles.gather = gather  # type: ignore[method-assign]
                    out = Path(folder) / "map.tif"
                    run = measured(model, tiles, out, waiting=True, precision=options.precision)
                    SceneTiles.gather = together  # type: ignore[method-assign]
                    rate = options.side**2 / run["whole"]
                    shares = {stage: run[stage] / run["whole"] for stage in ("read", "encode", "rest")}
                    rows.append({"source": source, "model": size, "read by": how, "pixels_per_second": rate, **shares})
                    told = ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())
                    print(f"{source:15} {size:6} {how:11} {rate:8,.0f} pixels/s: {told}", flush=True)
    if options.save:
        print(keep("maps", side=options.side, dates=DATES, precision=options.precision, rows=rows))


if __name__ == "__main__":
    main()
