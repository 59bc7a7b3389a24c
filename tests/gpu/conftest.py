"""The order of tests on a GPU, where minutes count: float32, whose bounds are tightest, first; torch.compile last."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    items[:] = [item for item in items if item not in here] + sorted(here, key=_place)


def _place(item: pytest.Item) -> tuple[int, int]:
    place = next((i for i, word in enumerate(("compile", "bfloat16", "float16")) if word in item.name), None)
    files = ("test_quantize.py", "test_infonce.py")  # compiled soonest first
    return {0: 3, 1: 1, 2: 2, None: 0}[place], files.index(item.path.name) if item.path.name in files else len(files)
