"""What maps of embeddings cost at scale, from measured blocks: ``docs/scale.md``.

    python benchmarks/scale.py [--measure] [--side 96]

``--measure`` embeds blocks of a season of Sentinel-2 from a Zarr, one thread, with each system and several numbers of
dates, and keeps the seconds of each stage and the bytes in ``results/<device>/<date>-scale.json``. Without it the page
is written anew from the newest of these. A cluster is simulated: workers that share one link to the storage.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import RESULTS, keep  # noqa: E402
from benchmarks.map_stages import S2, measured, timed, write_ground, zarr_description  # noqa: E402
from fusion.context import ContextFusion, FusionConfig, SensorConfig  # noqa: E402
from fusion.data import FolderDataset, open_cubes  # noqa: E402
from fusion.embed import embed_cube  # noqa: E402
from fusion.embed.dense import BlockEncoder  # noqa: E402
from fusion.embed.store import EmbeddingStore  # noqa: E402
from fusion.omnisat import OmniSat, OmniSatConfig  # noqa: E402
from fusion.token_fusion import TokenFusion, TokenFusionConfig  # noqa: E402

DATES = (12, 36)
AREAS = {  # square kilometres
    "a Sentinel-2 tile": 109.8**2,
    "a country of 500,000 km²": 500_000.0,
    "the land surface without Antarctica": 134.9e6,
}
PIXELS = 10_000  # of 10 m in a square kilometre
LINK = 10e9 / 8  # bytes a second between a cluster and its storage
WORKERS = (1, 10, 100, 1000)
BLOCK = 256  # pixels per side of what a worker takes at a time
Row = dict[str, Any]


# Measuring.


def models(dataset: FolderDataset) -> dict[str, nn.Module]:
    """Systems of tiles with random weights, which cost what trained ones do."""
    torch.manual_seed(0)
    tokens = TokenFusion(TokenFusionConfig.preset("tiny", [S2], (6, 6))).eval()
    tokens.tokenizer.fit(dataset)
    return {"OmniSat small": OmniSat(OmniSatConfig.preset("small", [S2], (6, 6))).eval(), "token fusion tiny": tokens}


def measure(side: int, dates: int) -> list[Row]:
    """A row for each system."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiles = write_ground(folder, side, dates)["Zarr"]
        read = _size(folder / "cube.zarr")
        for system, model in models(tiles).items():
            measured(model, tiles.subset(range(8)), folder / "first.tif")  # what is compiled at first use
            seconds = measured(model, tiles, folder / "map.tif")
            rows.append(_row(system, dates, side, seconds, read, (folder / "map.tif").stat().st_size, model.config.dim))
        days = [str(day) for day in tiles.scenes[0].layers["s2"].dates]
        (cube,) = open_cubes(str(folder), cube=zarr_description(days), memory=0)
        torch.manual_seed(0)
        context = ContextFusion(FusionConfig((SensorConfig(S2),))).eval()
        seconds = _of_cube(context, cube, folder / "cube-embeddings.zarr")
        written = _size(folder / "cube-embeddings.zarr")
        # A map a date: pixels and dates are what it is paid by.
        row = _row("context-aware, a date", dates, side, seconds, read, written, context.config.embedding)
        rows.append(
            row | {key: row[key] / dates for key in ("read_s", "encode_s", "write_s", "bytes_read", "bytes_written")}
        )
    for row in rows:
        print({key: round(v, 9) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
    return rows


def _row(system: str, dates: int, side: int, seconds: dict[str, float], read: int, written: int, dim: int) -> Row:
    pixels = side * side
    stages = {"read_s": seconds["read"], "encode_s": seconds["encode"], "write_s": seconds["rest"]}
    sizes = {"bytes_read": read, "bytes_written": written}
    return {"system": system, "dates": dates, "dim": dim} | {k: v / pixels for k, v in (stages | sizes).items()}


def _of_cube(model: ContextFusion, cube: Any, out: Path) -> dict[str, float]:
    spent = {"read": 0.0, "write": 0.0}
    started = time.perf_counter()
    with timed(BlockEncoder, "_read", spent, "read"), timed(EmbeddingStore, "write", spent, "write"):
        embed_cube(model, cube, out, rasters=False)
    whole = time.perf_counter() - started
    return {"read": spent["read"], "rest": spent["write"], "encode": whole - sum(spent.values())}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Scaling.


def simulated(row: Row, workers: int, blocks: int, link: float = LINK) -> float:
    """Seconds that workers of one core need for blocks of 256 x 256 pixels, each fetched, computed and sent back over
    one link that serves one transfer after another."""
    pixels = BLOCK * BLOCK
    fetch, send = (pixels * row[key] / link for key in ("bytes_read", "bytes_written"))
    compute = pixels * (row["read_s"] + row["encode_s"] + row["write_s"])
    ready = [(0.0, k, False) for k in range(min(workers, blocks))]  # when a worker wants the link, and whether to send
    heapq.heapify(ready)
    free, taken, end = 0.0, 0, 0.0
    while ready:
        now, worker, sends = heapq.heappop(ready)
        if sends:
            free = max(free, now) + send
            end = max(end, free)
            if taken < blocks:
                heapq.heappush(ready, (free, worker, False))
        elif taken < blocks:
            taken += 1
            free = max(free, now) + fetch
            heapq.heappush(ready, (free + compute, worker, True))
    return end


def bound(row: Row, workers: int) -> str:
    """What the simulated cluster waits for."""
    pixels = workers / (row["read_s"] + row["encode_s"] + row["write_s"])  # a second, if nothing waits for the link
    if pixels * (row["bytes_read"] + row["bytes_written"]) > LINK:
        return "link, reading" if row["bytes_read"] > row["bytes_written"] else "link, writing"
    stages = {"reading": row["read_s"], "encoding": row["encode_s"], "writing": row["write_s"]}
    return max(stages, key=lambda stage: stages[stage])


def page(table: dict[str, Any]) -> str:
    """The text of ``docs/scale.md``."""
    rows: list[Row] = table["rows"]
    lines = [
        "# Scale", "",
        "What maps of embeddings cost, calculated from measured blocks: written by `python benchmarks/scale.py` from",
        f"`benchmarks/results/{table['folder']}/{table['file']}` ({table['device']}, one thread, {table['side']} x "
        f"{table['side']} pixels of 10 m, four bands of",
        "Sentinel-2 from a Zarr; tiles of systems of tiles overlap by a quarter). No cluster was measured.", "",
        "| system | dates | pixels a second and core | reading, encoding, writing | bytes read, written a pixel |",
        "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in rows:
        whole = row["read_s"] + row["encode_s"] + row["write_s"]
        shares = ", ".join(f"{row[key] / whole:.0%}" for key in ("read_s", "encode_s", "write_s"))
        lines.append(
            f"| {row['system']} | {row['dates']} | {1 / whole:,.0f} | {shares} | {row['bytes_read']:.0f}, "
            f"{row['bytes_written']:.0f} |"
        )
    lines += [
        "", "\"Writing\" is all but reading and encoding: averaging tiles, compressing, reading the file back. Of a",
        "context-aware model all figures are of one of the dates.", "",
        "## Areas", "",
        "Storage: float32 as it is written, int8 a byte a feature (`--dtype int8`), codes four bytes a pixel",
        "(`fusion.embed.discrete`).", "",
        "| area | system | dates | core hours | cores for a week | read | float32 | int8 | codes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for area, square in AREAS.items():
        pixels = square * PIXELS
        for row in rows:
            hours = pixels * (row["read_s"] + row["encode_s"] + row["write_s"]) / 3600
            sizes = [row["bytes_read"], row["bytes_written"], row["dim"], 4]
            told = " | ".join(readable(pixels * size) for size in sizes)
            cores = max(1, round(hours / 168))
            lines.append(f"| {area} | {row['system']} | {row['dates']} | {hours:,.0f} | {cores:,} | {told} |")
    lines += [
        "", "## A cluster", "",
        f"Simulated: workers of one core take blocks of {BLOCK} x {BLOCK} pixels from a queue, 20 a worker, and share",
        "a link of 10 Gbit/s to the storage. Gain over one worker, and what the cluster is bound by.", "",
        "| system | dates | " + " | ".join(f"{n:,} workers" for n in WORKERS[1:]) + " |",
        "|---|---|" + "---|" * len(WORKERS[1:]),
    ]  # fmt: skip
    for row in rows:
        one = simulated(row, 1, 20) / 20
        gains = [f"{n * 20 * one / simulated(row, n, 20 * n):,.0f} ({bound(row, n)})" for n in WORKERS[1:]]
        lines.append(f"| {row['system']} | {row['dates']} | " + " | ".join(gains) + " |")
    lines += [
        "", "Where the link is the bound, int8 (`--dtype int8`) writes a quarter as much; where reading is, chunks of",
        "the size of a block of ground over all dates are read once. `fusion embed` and `fusion predict` share a map",
        "among any number of processes on one file system, `fusion.load(run).embed(x)` among the workers of a Dask",
        "cluster ([arrays](arrays.md)).", "",
    ]  # fmt: skip
    return "\n".join(lines)


def readable(size: float) -> str:
    """``readable(2.5e12)`` is ``"2.5 TB"``."""
    for unit, scale in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= scale:
            return f"{size / scale:,.1f} {unit}"
    return f"{size / 1e6:,.0f} MB"


def newest() -> dict[str, Any]:
    path = max(RESULTS.glob("*/????-??-??-scale.json"), key=lambda one: one.name)
    return json.loads(path.read_text()) | {"folder": path.parent.name, "file": path.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--side", type=int, default=96, help="pixels")
    options = parser.parse_args()
    if options.measure:
        torch.set_num_threads(1)
        rows = [row for dates in DATES for row in measure(options.side, dates)]
        print(keep("scale", side=options.side, threads=1, rows=rows))
    (REPOSITORY / "docs" / "scale.md").write_text(page(newest()))


if __name__ == "__main__":
    main()
