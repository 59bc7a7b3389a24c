"""What every part's process gets: where rows go, when to stop, and whether sizes are tiny."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from .rows import Rows

__all__ = ["Child"]


@dataclass
class Child:
    rows: Rows
    folder: Path  # of the whole run: what earlier parts wrote
    deadline: float  # of time.monotonic(), which all processes of a machine share
    dry: bool

    @classmethod
    def of_command_line(cls) -> Child:
        parser = argparse.ArgumentParser()
        parser.add_argument("--rows", type=Path, required=True)
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument("--deadline", type=float, required=True)
        parser.add_argument("--dry-run", action="store_true")
        given = parser.parse_args()
        return cls(Rows(given.rows), given.folder, given.deadline, given.dry_run)

    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()
