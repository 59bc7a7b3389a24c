"""The order of the tests on a GPU, where minutes count: 16 bits first, what torch.compile takes long for last."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    items[:] = [item for item in items if item not in here] + sorted(here, key=_place)


def _place(item: pytest.Item) -> int:
    if "compile" in item.name:
        return 2
    return 0 if "bfloat16" in item.name else 1
