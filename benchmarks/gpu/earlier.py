"""What an earlier run has shown: where minutes count, a later one begins with the rest.

``FUSION_GPU_AFTER`` names the earlier run's folder; ``gpu_run.py --after`` sets it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cases import Job

__all__ = ["VARIABLE", "long_before", "rows"]

VARIABLE = "FUSION_GPU_AFTER"
LONG = 10.0  # seconds


def rows(part: str) -> list[dict[str, Any]]:
    """The earlier run's rows of a part; none without one."""
    return list(_content(part).get("rows", ()))


def long_before(job: Job) -> bool:
    """Whether a peer took longer than ``LONG`` in the timing there, or was given up."""
    if job.contender.startswith("fusion"):
        return False
    timing = _content("timing")
    case = {"op": job.op, "contender": job.contender, **job.case}.items()
    known = any(all(row.get(k) == v for k, v in case) and row["seconds"] > LONG for row in timing.get("rows", ()))
    return known or job.key in timing.get("unfinished", ())


def _content(part: str) -> dict[str, Any]:
    path = Path(os.environ.get(VARIABLE) or os.devnull) / f"{part}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
