"""``fusion tokenize`` from files to table and codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fusion.cli import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    time = np.arange(64)
    rows = [f"s{k}," + ",".join(f"{np.sin(0.1 * time + k)[t]:.4f}" for t in time) for k in range(6)]
    path = tmp_path / "waves.csv"
    path.write_text("id," + ",".join(map(str, time)) + "\n" + "\n".join(rows) + "\n")
    return path


def test_finer_codes_cost_more_and_lose_less(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    use = "[uniform-16,uniform-256,patch-vq]"
    assert main(["tokenize", str(table), "--out", str(tmp_path / "out"), "--use", use, "--steps", "5"]) == 0
    assert "| uniform-256 | 8.00 |" in capsys.readouterr().out
    scores = json.loads((tmp_path / "out" / "metrics.json").read_text())["tokenizers"]
    assert scores["uniform-16"]["bits_per_value"] == 4 < scores["uniform-256"]["bits_per_value"]
    assert scores["uniform-16"]["rmse"] > 4 * scores["uniform-256"]["rmse"]
    codes = np.load(tmp_path / "out" / "uniform-16.npz")["codes"]
    assert codes.shape == (6, 1, 64)
    assert (codes >= 0).all()
    assert (codes < 16).all()


def test_one_series_cannot_be_fitted_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.csv").write_text("id,a,b\nx,1,2\n")
    assert main(["tokenize", str(tmp_path / "one.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "one series cannot be fitted on and scored on" in capsys.readouterr().err


def test_an_unknown_tokenizer_lists_the_known(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", str(table), "--out", str(tmp_path), "--use", "[zip]"]) == 2
    assert "no tokenizer zip; there are uniform-16" in capsys.readouterr().err
