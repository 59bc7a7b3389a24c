"""What a short pretraining costs where it is not alone: wall and processor seconds.

    python benchmarks/busy.py [--epochs 1] [--save]

``fusion pretrain --data landscape --size tiny`` alone, beside two busy loops, twice at the same time, and with two
threads on one core; as the command sets threads that wait (``fusion/threads.py``), and with the number of turns that
OpenMP's library has them spin. A run is stopped after five minutes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.harness import keep  # noqa: E402

PLACES = "alone", "beside two busy loops", "twice at once", "two threads on one core", "alone, again"
# The second number is what GNU's library takes by itself; what a command finds set it leaves.
SETTINGS: dict[str, dict[str, str]] = {
    "as the command sets it": {},
    "as the library does": {"GOMP_SPINCOUNT": "300000"},
}
_LIMIT = 300.0


def run(place: str, environment: dict[str, str], epochs: int) -> dict[str, Any]:
    """Wall seconds, and processor seconds of one pretraining, or that it was stopped."""
    spin = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(spin) for _ in range(2 if "loops" in place else 0)]
    cores = sorted(os.sched_getaffinity(0))[: 1 if "one core" in place else 2]
    given = os.environ | {"OMP_NUM_THREADS": "2"} | environment
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fusion", "pretrain", "--data", "landscape", "--size", "tiny"]
        command += ["--training.epochs", str(epochs), "--training.progress", "false"]
        runs = [
            subprocess.Popen(
                [*command, "--out", f"{folder}/{k}"],
                env=given,
                stdout=subprocess.DEVNULL,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )
            for k in range(2 if "twice" in place else 1)
        ]
        try:
            used = [_processor_seconds(one, started + _LIMIT) for one in runs]
        finally:
            for one in (*runs, *loops):
                one.kill()
                one.wait()
    return {"wall": time.perf_counter() - started, "processor": sum(used) / len(used), "stopped": max(used) < 0}


def _processor_seconds(one: subprocess.Popen[bytes], deadline: float) -> float:
    while time.perf_counter() < deadline:
        number, status, usage = os.wait4(one.pid, os.WNOHANG)
        if number:
            one.returncode = os.waitstatus_to_exitcode(status)
            if one.returncode:
                raise SystemExit(f"fusion pretrain ended with {one.returncode}")
            return usage.ru_utime + usage.ru_stime
        time.sleep(0.05)
    return -1.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--save", action="store_true")
    asked = options.parse_args()
    rows = []
    for place in PLACES:
        for setting, environment in SETTINGS.items():
            rows.append({"place": place, "threads": setting} | run(place, environment, asked.epochs))
            print(rows[-1], flush=True)
    if asked.save:
        print(keep("busy", epochs=asked.epochs, rows=rows))


if __name__ == "__main__":
    main()
