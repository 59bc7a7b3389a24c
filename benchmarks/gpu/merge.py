"""Adds the files of a run on another machine to the results of its GPU: what was measured again is replaced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..tables import MEASURED, RESULTS
from .rows import write
from .summary import PARTS, summarise

__all__ = ["merge"]

_KEPT = ("correctness", "conditions", "timing", "sweep")  # parts of which a run may do some; the set-up is replaced
_OF_SWEEPS = {"microseconds", "failed", "now", "number", "begun", "compiled"}
_MEASURED = MEASURED | _OF_SWEEPS | {"outcome", "detail", "message"}


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
            old = json.loads(path.read_text())
            kept = [row for row in old["rows"] if _identity(row) not in measured and "collected" not in row]
            part["rows"] = [{"commit": old.get("commit"), **row} for row in kept] + part["rows"]
        write(path, part)
    summarise(folder)
    return folder


def _identity(row: dict[str, Any]) -> str:
    own = {"op", "contender"} & row.keys()
    return json.dumps({k: v for k, v in row.items() if k in own or k not in _MEASURED}, sort_keys=True)
