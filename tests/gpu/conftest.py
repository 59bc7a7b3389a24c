"""The order of tests on a GPU, where minutes count: float32, whose bounds are tightest, first; torch.compile last.

Before all others come those that did not pass in the run that ``FUSION_GPU_AFTER`` names (benchmarks/gpu/earlier.py).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    passed = _passed()
    here.sort(key=lambda item: (item.nodeid in passed, *_place(item)))
    items[:] = [item for item in items if item not in here] + here


def _passed() -> set[str]:
    if not os.environ.get("FUSION_GPU_AFTER"):
        return set()
    from benchmarks.gpu.earlier import rows  # which gpu_run.py, who sets it, can import

    return {row["test"] for row in rows("correctness") if row.get("outcome") in ("passed", "skipped")}


def _place(item: pytest.Item) -> tuple[int, int]:
    place = next((i for i, word in enumerate(("compile", "bfloat16", "float16")) if word in item.name), None)
    files = ("test_quantize.py", "test_infonce.py")  # compiled soonest first
    return {0: 3, 1: 1, 2: 2, None: 0}[place], files.index(item.path.name) if item.path.name in files else len(files)
