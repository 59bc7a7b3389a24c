"""Rows: a child appends them as lines of JSON; the parent makes the part's file of them, whole at any time."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["Rows", "read", "write"]

Row = dict[str, Any]


class Rows:
    """Where a part writes to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, **row: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """The rows so far; a line cut off by the end of its writer is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def write(path: Path, content: Any) -> None:
    """JSON that is either the old or the new one, whenever the process ends."""
    text = json.dumps(content, indent=1) if not isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n")
    os.replace(partial, path)
