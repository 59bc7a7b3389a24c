"""Where tests find real data and reference numbers; both are optional and their absence skips."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Several workers share the cores: twice as many threads as cores, which wait for each other by spinning, take many
# times as long. Before torch is imported, for it reads this once.
if _workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FUSION_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes a minute or more begins first, so that no core waits for it at the end."""
    items.sort(key=lambda item: "interpreted" not in item.path.name)


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str, int, int], None]:
    """``tally("bit flips: models", tried, survived)`` is a row of the table at the end of the tests."""
    return lambda kind, tried, survived: record_property("tally", (kind, tried, survived))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of the campaign in tests/faults."""
    reports = [one for group in terminalreporter.stats.values() for one in group if getattr(one, "when", "") == "call"]
    rows = [row for report in reports for name, row in report.user_properties if name == "tally"]
    sums: dict[str, list[int]] = {}
    for kind, tried, survived in rows:
        of_kind = sums.setdefault(kind, [0, 0])
        of_kind[0] += tried
        of_kind[1] += survived
    if sums:
        terminalreporter.section("faults")
        terminalreporter.write_line("| class | tried | survived |\n|---|--:|--:|")
        for kind, (tried, survived) in sorted(sums.items()):
            terminalreporter.write_line(f"| {kind} | {tried} | {survived} |")


@pytest.fixture(scope="session")
def data_dir() -> Callable[[str], Path]:
    """``data_dir("biomassters_mini")`` is the folder of a real data set, or skips the test."""

    def find(name: str) -> Path:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"real data {name!r} not found in {DATA} (set FUSION_DATA)")
        return folder

    return find


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, Any]]:
    """``golden("omnisat")`` is the JSON of numbers taken from the original system, or skips the test."""

    def read(name: str) -> dict[str, Any]:
        path = DATA.parent / "golden" / f"{name}.json"
        if not path.is_file():
            pytest.skip(f"reference numbers {path} not found (set FUSION_DATA)")
        return json.loads(path.read_text())

    return read


@pytest.fixture
def seeded() -> None:
    """Random numbers of a test are the same in whatever order tests run."""
    import torch

    torch.manual_seed(0)
