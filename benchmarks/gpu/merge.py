"""Adds the files of a run on another machine to the results of its GPU: what was measured again is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..tables import MEASURED, RESULTS
from .rows import write
from .summary import PARTS, summarise

__all__ = ["merge"]

_KEPT = ("timing", "sweep")  # parts that several runs measure some of; the others are replaced as a whole


def merge(run: Path) -> Path:
    """Writes into ``results/<gpu>/`` and returns that folder."""
    parts = {name: json.loads((run / f"{name}.json").read_text()) for name in PARTS if (run / f"{name}.json").exists()}
    devices = {part["device"] for part in parts.values() if "device" in part}
    if len(devices) != 1:
        raise SystemExit(f"{run}: its files name {len(devices)} devices; one is needed, so run the set-up too")
    folder = RESULTS / devices.pop()
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        path = folder / f"{name}.json"
        if name in _KEPT and path.exists():
            measured = {_identity(row) for row in part["rows"]}
            old = json.loads(path.read_text())["rows"]
            part["rows"] = [row for row in old if _identity(row) not in measured] + part["rows"]
        write(path, part)
    summarise(folder)
    return folder


def _identity(row: dict[str, Any]) -> str:
    own = {"op", "contender"} & row.keys()
    measured = MEASURED | {"microseconds", "failed", "now", "number", "begun", "compiled"}
    return json.dumps({k: v for k, v in row.items() if k in own or k not in measured}, sort_keys=True)
