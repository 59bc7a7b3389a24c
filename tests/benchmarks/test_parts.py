"""Parts of a run: none loses another's rows, whatever it does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Runs one part whose process is the given program, and prints what became of it. WORK/part.jsonl takes the rows.
PROGRAM = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from benchmarks.gpu import parts

class Plan(parts.Plan):
    def start(self, name, deadline):
        arguments = [sys.executable, "-c", sys.argv[3], str(self.work / f"{name}.jsonl"), str(deadline)]
        return subprocess.Popen(arguments, start_new_session=True)

parts.GRACE = 0.5
plan = Plan(Path(sys.argv[2]), float(sys.argv[4]), dry=True)
print(plan.run(parts.Part("part", 1.0, again=sys.argv[5] == "again")))
plan.close()
"""
ROW = "import sys, time, os; file = open(sys.argv[1], 'a'); print('{\"row\": 1}', file=file, flush=True)\n"


def run(folder: Path, child: str, seconds: float = 20, again: bool = False) -> tuple[str, list[dict]]:
    arguments = [str(ROOT), str(folder), ROW + child, str(seconds), "again" if again else "once"]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    content = json.loads((folder / "part.json").read_text())
    assert content["outcome"] == done.stdout.strip()
    return content["outcome"], content["rows"]


def test_a_part_that_ends(tmp_path: Path) -> None:
    assert run(tmp_path, "") == ("done", [{"row": 1}])


def test_a_crash_keeps_the_rows_and_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    outcome, rows = run(tmp_path, "print('{\"row\":', file=file, flush=True); os.abort()")
    assert outcome.startswith("crashed: exit code -6")
    assert rows == [{"row": 1}]


def test_a_part_that_hangs_is_stopped_with_what_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    child = f"""
import subprocess
subprocess.Popen([sys.executable, "-c", "import time, pathlib; time.sleep(6); pathlib.Path({str(mark)!r}).touch()"])
time.sleep(60)
"""
    outcome, rows = run(tmp_path, child, seconds=3)
    assert outcome == "stopped at its time limit"
    assert rows == [{"row": 1}]
    subprocess.run([sys.executable, "-c", "import time; time.sleep(5)"], check=True)
    assert not mark.exists()


def test_after_a_crash_a_part_that_can_goes_on(tmp_path: Path) -> None:
    outcome, rows = run(tmp_path, "if len(open(sys.argv[1]).readlines()) < 3: os.abort()", again=True)
    assert outcome == "done, after 2 crashes"
    assert rows == [{"row": 1}] * 3
