"""What is made of the rows of a run: ratios, shares, validity, figures, tables, several runs' results together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The benchmarks are no installed package: a process that has the repository in its path.
PROGRAM = "import json, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; folder = Path(sys.argv[2])\n"

CASE = {"op": "patch_info_nce", "shape": [3, 128, 36, 256], "exclude": "tile", "dtype": "bfloat16", "pass": "both"}
LOOK_UP = {"op": "quantize", "what": "look-up", "N": 5, "K": 5, "D": 5, "dtype": "float32"}
TIMING = [
    {**CASE, "key": "a", "contender": "fusion", "median_ms": 2.0, "graph_ms": 1.0, "operations": 4e11, "moved": 1e6},
    {**CASE, "key": "b", "contender": "compile", "median_ms": 7.0, "operations": 4e11, "moved": 1e6},
    {"key": "c", "begun": True},
    {**LOOK_UP, "key": "d", "contender": "fusion", "median_ms": 1.0, "operations": 1e11, "moved": 1e6},
    {**LOOK_UP, "key": "e", "contender": "plain", "median_ms": 9.0, "operations": 1e11, "moved": 1e6},
]
SETUP = [
    {"conditions": {"device": "some-gpu", "driver": "1", "torch": "2.11.0", "triton": "3.6.0"}},
    *({"rate": name, "flops": flops} for name, flops in (("bfloat16", 8e14), ("float16", 6e14), ("float32", 5e13))),
    {"rate": "copy", "bytes": 3e12},
]
FAILED = {"outcome": "failed", "run": "own tiles"}
TESTS = [
    FAILED | {"test": "tests/gpu/test_quantize.py::test_nearest_code[x]", "message": "E  AssertionError: wrong"},
    FAILED | {"test": "tests/gpu/test_infonce.py::test_x[y-torch.float32]", "message": "E  AssertionError: wrong"},
    FAILED | {"test": "tests/gpu/test_infonce.py::test_graph", "message": "E  torch.AcceleratorError: no capture"},
    {"run": "own tiles", "collected": 9},
]


def run(program: str, folder: Path) -> str:
    command = [sys.executable, "-c", PROGRAM + program, str(ROOT), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    parts = {"setup": SETUP, "correctness": TESTS, "timing": TIMING}
    for name, rows in parts.items():
        content = {
            "part": name,
            "outcome": "done",
            "seconds": 1.0,
            "dry": False,
            "commit": "first",
            **SETUP[0]["conditions"],
            "rows": rows,
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    run("from benchmarks.gpu.summary import summarise; summarise(folder)", tmp_path)
    return tmp_path


def test_rows_get_ratio_share_and_validity(folder: Path) -> None:
    timing = json.loads((folder / "timing.json").read_text())
    ours, compiled, look_up, plain = timing["rows"]
    assert compiled["ratio"] == 3.5
    assert ours["share"] == pytest.approx(4e11 / 8e14 / 1e-3)  # of the time in a graph
    assert look_up["share"] == pytest.approx(1e11 / (6e14 / 3) / 1e-3)  # three products of 16 bits are the faster way
    assert look_up["invalid"]
    assert "ratio" not in plain  # nothing is said to be faster than what is wrong
    assert "invalid" not in ours
    assert timing["unfinished"] == ["c"]


def test_figures_are_reached_or_missed(folder: Path) -> None:
    lines = (folder / "summary.md").read_text().splitlines()
    assert "| InfoNCE [3, 128, 36, 256] bfloat16, share of the roofline | 50% | 50% | reached |" in lines
    assert "| InfoNCE [3, 128, 36, 256] bfloat16 against torch.compile | 3.00x | 3.50x | reached |" in lines
    assert "* **failed** `tests/gpu/test_quantize.py::test_nearest_code[x]`: AssertionError: wrong" in lines
    assert "Times of look-up, patch_info_nce (float32) are invalid." in lines  # a crash is no wrong number
    assert not any("quantize, look-up" in line for line in lines)


def test_a_second_run_adds_to_the_first(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    program = """
from benchmarks import tables
from benchmarks.gpu import merge
merge.RESULTS = tables.RESULTS = folder / "results"
merge.merge(folder)
rows = json.loads((folder / "timing.json").read_text())
rows["rows"] = [row | {"median_ms": 1.5} for row in rows["rows"][:1]]
(folder / "timing.json").write_text(json.dumps(rows))
tests = json.loads((folder / "correctness.json").read_text()) | {"commit": "second"}
tests["rows"] = [tests["rows"][0] | {"outcome": "passed"}, {"run": "own tiles", "collected": 5}]
(folder / "correctness.json").write_text(json.dumps(tests))
merge.merge(folder)
print(tables.render("patch_info_nce", {"device": "some-gpu"}))
"""
    text = run(program, folder)
    rows = json.loads((results / "some-gpu" / "timing.json").read_text())["rows"]
    assert sorted(row["median_ms"] for row in rows) == [1.0, 1.5, 7.0, 9.0]
    assert text.splitlines()[0].startswith("some-gpu, torch 2.11.0, driver 1.")
    assert "| 3×128×36×256 | tile | bfloat16 | both | 1.5 ms | 1.0 ms | 50% |  | 4.7× |" in text
    lines = (results / "some-gpu" / "summary.md").read_text().splitlines()
    assert "own tiles: 1 passed, 2 failed, 0 skipped, 2 did not run" in lines
    assert [line for line in lines if line.startswith("Times of")] == ["Times of patch_info_nce (float32) are invalid."]
    kept = json.loads((results / "some-gpu" / "correctness.json").read_text())["rows"][1]
    assert (kept["test"], kept["commit"]) == ("tests/gpu/test_infonce.py::test_graph", "first")
