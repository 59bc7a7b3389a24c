"""The command that measures a GPU goes through all its parts without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.extra
def test_the_dry_run_goes_through_all_parts(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_run.py"), "--dry-run", "--out", str(tmp_path)]
    done = subprocess.run([*command, "--budget", "240"], capture_output=True, text=True, cwd=tmp_path)
    log = (tmp_path / "log.txt").read_text()[-4000:]
    assert done.returncode == 0, done.stdout + done.stderr + log
    parts = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in PARTS}
    assert {name: part["outcome"] for name, part in parts.items()} == dict.fromkeys(PARTS, "done"), log
    assert not [row for row in parts["conditions"]["rows"] if row["outcome"] == "failed"]
    rows = parts["timing"]["rows"]
    assert not [row for row in rows if "refused" in row]
    assert all(row["interpreted"] for row in rows)
    assert {row["op"] for row in rows} == {"patch_info_nce", "relative_attention", "quantize", "training_step"}
    assert {"fusion", "plain", "chunked", "compile", "addmm", "tiled", "bucketize"} <= {
        row["contender"] for row in rows
    }
    summary = (tmp_path / "summary.md").read_text()
    assert all(f"## {name.capitalize()}" in summary for name in PARTS)


PARTS = ("setup", "correctness", "conditions", "timing", "sweep")
