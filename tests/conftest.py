"""Where tests find real data and reference numbers; both are optional and their absence skips."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("FUSION_DATA", REPOSITORY.parent / "shared" / "data"))


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
