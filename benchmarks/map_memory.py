"""How much memory a map of embeddings takes, by its area.

    python benchmarks/map_memory.py [--sides 512 1024 2048] [--save]

A Zarr of 12 dates of four bands, OmniSat "tiny" with random weights, tiles of 6 x 6 patches of a pixel that overlap by
a quarter: the most tiles and the largest vectors for the area. Every side runs in a process of its own, of which the
largest resident memory is taken, files that it has mapped included; the data is written by another. ``--save`` keeps
the rows in ``results/<device>/``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import keep  # noqa: E402
from benchmarks.map_stages import DATES, S2, covering, days_of, write_ground, zarr_description  # noqa: E402
from fusion.embed import embed_map  # noqa: E402
from fusion.omnisat import OmniSat, OmniSatConfig  # noqa: E402


def measured(side: int, folder: Path) -> dict[str, float]:
    """Of one map, by this process."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = OmniSat(OmniSatConfig.preset("tiny", [S2], (6, 6))).eval()
    tiles = covering(zarr_description(days_of(DATES)), folder)
    before = _peak()
    embed_map(model, tiles, folder / "map.tif")
    return {"side": side, "tiles": len(tiles), "MiB before": before, "MiB at most": _peak()}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _call(*arguments: str) -> str:
    """This file in another process."""
    return subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 1024, 2048], help="pixels")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--step", nargs=3, metavar=("WHAT", "SIDE", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        what, side, folder = options.step
        if what == "write":
            write_ground(Path(folder), int(side))
        else:
            print(json.dumps(measured(int(side), Path(folder))))
        return
    rows = []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as folder:
            _call("--step", "write", str(side), folder)
            rows.append(json.loads(_call("--step", "map", str(side), folder)))
        print(", ".join(f"{name} {value:,.0f}" for name, value in rows[-1].items()), flush=True)
    if options.save:
        print(keep("map-memory", dates=DATES, threads=1, rows=rows))


if __name__ == "__main__":
    main()
