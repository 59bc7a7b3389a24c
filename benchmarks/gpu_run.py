"""Everything there is to know of a GPU, in one command and a few minutes.

    python benchmarks/gpu_run.py --out DIR --budget SECONDS [--parts setup,timing] [--dry-run]

setup        driver, versions, backends, the build of the CUDA sources, rates of large products and of copies
correctness  tests/gpu in parallel processes
conditions   the same bits every run, dropout, CUDA graphs, streams, autocast, torch.compile, the other GPUs' tiles
timing       every op against its peers, headline cases first, and a training step of OmniSat
sweep        candidate tiles against the tables', in the time that is left

Each part writes ``DIR/<part>.json`` as it goes and cannot lose another's; ``DIR/summary.md`` says what came out, and
against which figures. Without ``--out`` it writes into ``benchmarks/results/<gpu>/``, from which
``python benchmarks/tables.py`` makes the tables of the READMEs.

It needs torch, triton, numpy, einops, pytest and ninja, and no installation of this package: children find the
checkout through a folder of links (gpu/checkout.py). ``--dry-run`` goes through all parts without a GPU, in Triton's
interpreter at tiny sizes; its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.gpu import earlier
from benchmarks.gpu.merge import merge
from benchmarks.gpu.parts import PARTS, Part, Plan
from benchmarks.gpu.summary import summarise

RESERVE = 4.0  # seconds for the summary and the end of processes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [part.name for part in PARTS]
    parser.add_argument("--out", type=Path, help="folder to write into (default: benchmarks/results/<gpu>)")
    parser.add_argument("--budget", type=float, default=460, help="seconds for everything (default: 460)")
    parser.add_argument("--parts", default=",".join(names), help=f"which of {', '.join(names)}, summary")
    parser.add_argument("--most", default="", metavar="PART=SECONDS,...", help="longest times of parts")
    parser.add_argument("--after", type=Path, metavar="RUN", help="begin with what did not pass in this folder's run")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes in Triton's interpreter, without a GPU")
    parser.add_argument("--add", type=Path, metavar="RUN", help="add a folder written elsewhere to the results; no run")
    given = parser.parse_args()
    if given.add:
        print(f"added to {merge(given.add)}; python benchmarks/tables.py writes the tables")
        return 0
    wanted = [name for name in given.parts.split(",") if name]
    if unknown := set(wanted) - {*names, "summary"}:
        parser.error(f"unknown part: {', '.join(sorted(unknown))}")
    most = {name: float(seconds) for name, seconds in (item.split("=") for item in given.most.split(",") if item)}
    if given.after:
        os.environ[earlier.VARIABLE] = str(given.after.resolve())
    folder = given.out or _default_folder(given.dry_run)
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    began = time.monotonic()
    plan = Plan(folder, given.budget - RESERVE, given.dry_run)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warming = None
    try:
        for part in _chosen(wanted, most):
            if part.name == "timing" and warming is not None:
                plan.stop(warming)
            outcome = plan.run(part)
            print(f"{time.monotonic() - began:6.1f} s  {part.name}: {outcome}", flush=True)
            if part.name == "setup" and "timing" in wanted and not given.dry_run:
                warming = plan.start("warm", time.monotonic() + given.budget / 2)  # while tests run
    finally:
        plan.close()
        summarise(folder)
    print((folder / "summary.md").read_text())
    failed = _failures(folder) if "correctness" in wanted else 0
    return 1 if failed else 0


def _chosen(wanted: list[str], most: dict[str, float]) -> list[Part]:
    """The parts that run. What has a limit of its own may take it, and the last one all the time that is left."""
    chosen = [part for part in PARTS if part.name in wanted]
    limited = [replace(part, share=1.0, most=most[part.name]) if part.name in most else part for part in chosen]
    return [*limited[:-1], *(replace(part, share=max(part.share, 0.97)) for part in limited[-1:])]


def _default_folder(dry: bool) -> Path:
    from benchmarks.harness import RESULTS, device_name

    if dry:
        sys.exit("--dry-run measures nothing: give --out, so that no results are overwritten")
    return RESULTS / device_name()


def _failures(folder: Path) -> int:
    rows = json.loads((folder / "correctness.json").read_text())["rows"]
    return sum(row.get("outcome") == "failed" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
