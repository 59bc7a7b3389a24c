"""The committed tables of CPUs: no peer is faster where this project claims to be ahead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
CPUS = sorted(RESULTS.glob("*-threads/20*-*.json"))


def rows_of(op: str) -> list[dict[str, Any]]:
    """Of both passes, in the newest table of each processor."""
    newest = {path.parent: path for path in CPUS if path.stem.endswith(f"-{op}")}
    rows = [row for path in newest.values() for row in json.loads(path.read_text())["rows"]]
    return [row for row in rows if row.get("pass", "both") == "both"]


def test_there_are_tables_of_every_op() -> None:
    for op in ("patch_info_nce", "quantize", "relative_attention", "training_step"):
        assert sum(row["contender"] == "fusion" for row in rows_of(op)) > 5
        assert sum(row["contender"] != "fusion" for row in rows_of(op)) > 5


@pytest.mark.parametrize(
    ("op", "claimed"),
    [
        ("patch_info_nce", lambda row: row["shape"][1] >= 8),
        ("quantize", lambda row: row["what"] == "look-up"),
        ("relative_attention", lambda row: row["contender"] != "sdpa without bias" and row["dtype"] == "float32"),
        ("training_step", lambda row: row["part"] == "whole step"),
        ("pool_dates", lambda row: row["contender"] != "fusion" and row["size"] in ("tiny", "small", "paper")),
        ("convolution_3x3", lambda row: row["size"] != "paper, 3 x 3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_peer_is_faster(op: str, claimed: Any) -> None:
    rows = [row for row in rows_of(op) if claimed(row)]
    assert rows
    assert [row for row in rows if row["ratio"] < 1] == []


def test_attention_at_the_size_of_pastis() -> None:
    rows = [row for row in rows_of("relative_attention") if row["size"] == "pastis self" and row["dtype"] == "float32"]
    ratio = {row["contender"]: row["ratio"] for row in rows}
    assert ratio["plain"] >= 5
    assert ratio["sdpa without bias"] >= 1 / 1.2
