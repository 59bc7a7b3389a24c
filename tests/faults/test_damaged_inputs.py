"""Files that come from strangers, damaged in every way: they are refused by name, or what is read of them is finite.

Each kind is tried in a process of its own (``trials.py``), so that one that crashes or hangs is a fault like others.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TRIALS = Path(__file__).with_name("trials.py")
KINDS = (
    "HDF5", "NetCDF 4", "NetCDF 3", "Zarr 2", "Zarr 3", "NPZ", "NPY", "GeoTIFF", "JPEG 2000", "descriptions",
    "tables of labels", "GeoJSON", "GeoPackage", "checkpoints", "tokenizers", "states of runs",
)  # fmt: skip
SECONDS = 400  # of all trials of a kind, on a machine that is busy
CRASHES = 5  # after so many the rest of a kind is not tried


@pytest.mark.extra
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_refused_by_name_or_finite(kind, tmp_path, tally):
    tried, faults, first = 0, [], 0
    for _ in range(CRASHES):
        done = subprocess.run(
            [sys.executable, str(TRIALS), kind, str(tmp_path), str(first)],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        told = [json.loads(line) for line in done.stdout.splitlines()]
        tried += sum(fault is None for *_, fault in told)
        faults += [f"{name}: {fault}" for _, name, fault in told if fault]
        if not done.returncode:
            break
        assert told, done.stderr[-3000:]
        number, name, fault = told[-1]
        assert fault is None, done.stderr[-3000:]  # else it ended between two trials
        faults.append(f"{name}: the process ended with {done.returncode}: {done.stderr[-500:]}")
        first = number + 1
    tally(f"damaged inputs: {kind}", tried, tried - len(faults))
    assert tried >= 25
    assert not faults, f"{len(faults)} of {tried}:\n" + "\n".join(faults)
