"""The benchmark of the host's time runs, and counts launches."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "host_time.py"


@pytest.mark.extra
def test_every_call_is_measured() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^\| ([\w +]+) \| \d+ µs \| (\d+) µs \|.*\| (\d+) \| (\d+) \|$", done.stdout, re.M)
    assert len(rows) == 5
    launches = {call: int(count) for call, _, count, _ in rows}
    assert launches["nearest_code"] == 1  # the codebook is prepared once
    assert launches["InfoNCE forward"] <= 3
    assert launches["InfoNCE forward + backward"] <= 6
    assert launches["attention forward + backward"] <= 5
