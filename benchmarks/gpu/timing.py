"""Times every job of cases.py and writes a row for each; begins behind the last one where it was cut off."""

from __future__ import annotations

import gc
import os
import threading
import time
from typing import Any

import torch

from .cases import LATE, Job, jobs
from .child import Child
from .earlier import long_before
from .measure import measure
from .rows import read

LONGEST = 30.0  # seconds of one job, compilation included, before the process gives it up
GRAPHED = ("patch_info_nce", "relative_attention", "quantize")


class Watchdog:
    """Ends the process where a job hangs: the parent begins another one behind it."""

    def __init__(self) -> None:
        self.until = float("inf")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            if time.monotonic() > self.until:
                os._exit(3)


def main() -> None:
    child = Child.of_command_line()
    begun = {row["key"] for row in read(child.rows.path) if "key" in row}
    watchdog = Watchdog()
    for job in sorted(jobs(child.dry), key=long_before):
        if job.key in begun:
            continue
        if child.left() < 1:
            break
        child.rows.add(begun=True, key=job.key)
        watchdog.until = time.monotonic() + LONGEST
        row = _row(job, child.dry)
        watchdog.until = float("inf")
        child.rows.add(**row)
        if "broken" in row:
            raise SystemExit(4)  # the device no longer answers this process; another one goes on
        if job.contender in LATE:
            torch._dynamo.reset()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _row(job: Job, dry: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"key": job.key, "op": job.op, "contender": job.contender, **job.case}
    began = time.monotonic()
    try:
        # A backward pass alone runs where its forward pass did, outside any graph.
        graphed = job.op in GRAPHED and job.case.get("pass") != "backward"
        long = job.op == "training_step"
        row |= measure(job.build(), with_graph=graphed, seconds=0.5 if long else 0.06)
    except Exception as error:
        row["refused"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        if "CUDA error" in str(error) or "illegal memory" in str(error):
            row["broken"] = True
    row |= {"operations": job.operations, "moved": job.moved, "seconds": round(time.monotonic() - began, 2)}
    return row | ({"interpreted": True} if dry else {})


if __name__ == "__main__":
    main()
