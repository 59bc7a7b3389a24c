"""Runs parts one after the other, each in a process of its own with its share of the time that is left.

Whatever a part does, crash or hang, costs that part alone: its rows so far are kept, and what happened is recorded.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .checkout import ROOT, environment
from .rows import read, write

__all__ = ["PARTS", "Part", "Plan"]

GRACE = 2.0  # seconds between a part's deadline, which it keeps itself, and its end by force


@dataclass(frozen=True)
class Part:
    """``share`` of the seconds left when it begins, at most ``most``; ``again``: after a crash it goes on behind it."""

    name: str
    share: float
    most: float = float("inf")
    again: bool = False


PARTS = (
    Part("setup", 0.3, 75),
    Part("correctness", 0.35, 150),
    Part("conditions", 0.2, 60),
    Part("timing", 0.8, again=True),
    Part("sweep", 0.95, again=True),
)


class Plan:
    """One run: its folder, its end, and the processes it has started."""

    def __init__(self, folder: Path, budget: float, dry: bool) -> None:
        self.folder, self.dry = folder, dry
        self.end = time.monotonic() + budget
        self.work = Path(tempfile.mkdtemp(prefix="fusion-gpu-run-"))
        self.log: IO[str] = (folder / "log.txt").open("w")
        self.environment = environment(dry=dry)
        self.running: list[subprocess.Popen] = []

    def start(self, name: str, deadline: float) -> subprocess.Popen:
        """Module ``benchmarks.gpu.<name>`` in a process group of its own."""
        command = [sys.executable, "-m", f"benchmarks.gpu.{name}", "--rows", str(self.work / f"{name}.jsonl")]
        command += ["--folder", str(self.folder), "--deadline", str(deadline)] + ["--dry-run"] * self.dry
        self.log.write(f"\n===== {name}\n")
        self.log.flush()
        streams = {"stdout": self.log, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, cwd=ROOT, env=self.environment, start_new_session=True, **streams)
        self.running.append(child)
        return child

    def stop(self, child: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()

    def close(self) -> None:
        for child in self.running:
            if child.poll() is None:
                self.stop(child)
        self.log.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def run(self, part: Part) -> str:
        """Runs a part to its end or its limit; returns what became of it."""
        began = time.monotonic()
        deadline = began + min(part.most, part.share * (self.end - began))
        outcome, crashes = "did not begin: no time was left", 0
        while deadline - time.monotonic() > 1:
            child = self.start(part.name, deadline)
            outcome = self._wait(child, part.name, deadline, began)
            if not outcome.startswith("crashed") or not part.again or crashes == 5:
                break
            crashes += 1
        if crashes and not outcome.startswith("crashed"):
            outcome += f", after {crashes} crashes"
        self._write(part.name, outcome, began)
        return outcome

    def _wait(self, child: subprocess.Popen, name: str, deadline: float, began: float) -> str:
        written = time.monotonic()
        while child.poll() is None:
            if time.monotonic() > deadline + GRACE:
                self.stop(child)
                return "stopped at its time limit"
            if time.monotonic() - written > 2:
                self._write(name, "running", began)
                written = time.monotonic()
            time.sleep(0.05)
        self.stop(child)  # what it has started and left behind
        return "done" if child.returncode == 0 else f"crashed: exit code {child.returncode}, see log.txt"

    def _write(self, name: str, outcome: str, began: float) -> None:
        rows = read(self.work / f"{name}.jsonl")
        own = {"part": name, "outcome": outcome, "seconds": round(time.monotonic() - began, 1), "dry": self.dry}
        write(self.folder / f"{name}.json", own | self.conditions() | {"rows": rows})

    def conditions(self) -> dict[str, Any]:
        """Device and versions, as the set-up found them."""
        rows = read(self.work / "setup.jsonl")
        if not rows and (self.folder / "setup.json").exists():
            rows = json.loads((self.folder / "setup.json").read_text())["rows"]
        return next((row["conditions"] for row in rows if "conditions" in row), {})
