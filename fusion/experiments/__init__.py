"""Experiments of single papers: the data they open and steps of their own, named by YAML under ``fusion/presets``.

Nothing imports them, and they do not import each other. What runs them is :mod:`fusion.workflow`.
"""

from __future__ import annotations

import importlib
from typing import Any

_MOVED = {
    "open_data": "fusion.data",
    "partition": "fusion.data",
    "Experiment": "fusion.workflow",
    "Outcome": "fusion.workflow",
    "experiments": "fusion.workflow",
    "load_experiment": "fusion.workflow",
    "run_experiment": "fusion.workflow",
}


def __getattr__(name: str) -> Any:
    """Names that were here before; they still work."""
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MOVED[name]), name)
