"""A GPU run begins with what an earlier one did not pass, and leaves long peers to the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import gpu_run
from benchmarks.gpu import earlier
from benchmarks.gpu.cases import jobs


@pytest.fixture
def long_and_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of three peers: one took 20 seconds, one was given up, one took 1 second."""
    peers = [job for job in jobs(tiny=True) if job.contender == "compile"][:3]
    timed = [{"op": job.op, "contender": job.contender, **job.case} for job in peers]
    rows = [timed[0] | {"seconds": 20.0}, timed[2] | {"seconds": 1.0}]
    (tmp_path / "timing.json").write_text(json.dumps({"rows": rows, "unfinished": [peers[1].key]}))
    monkeypatch.setenv(earlier.VARIABLE, str(tmp_path))
    return [job.key for job in peers]


def test_peers_that_took_long_or_did_not_end_are_known(long_and_not: list[str]) -> None:
    assert [job.key for job in jobs(tiny=True) if earlier.long_before(job)] == long_and_not[:2]


def test_without_an_earlier_run_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(earlier.VARIABLE, raising=False)
    assert earlier.rows("correctness") == []
    assert not any(map(earlier.long_before, jobs(tiny=True)))


def test_limits_are_those_given_and_the_last_part_has_the_rest() -> None:
    parts = gpu_run._chosen(["setup", "correctness", "timing"], {"correctness": 40.0})
    assert [part.name for part in parts] == ["setup", "correctness", "timing"]
    assert (parts[1].share, parts[1].most) == (1.0, 40.0)
    assert (parts[2].share, parts[2].most) == (0.97, float("inf"))
