"""Threads of commands: they yield, and a container's quota counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fusion.threads import allowed_cores, share_cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", None),
        ("200000 100000\n", 2),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("garbage\n", None),
    ],
)
def test_a_quota_of_a_container(text, cores, tmp_path):
    (tmp_path / "cpu.max").write_text(text)
    assert allowed_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", None), ("300000", 3)])
def test_a_quota_of_the_first_version(quota, cores, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert allowed_cores(tmp_path) == cores


def test_no_container(tmp_path):
    assert allowed_cores(tmp_path) is None


def test_what_is_set_and_what_stays(tmp_path, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    empty: dict[str, str] = {}
    share_cores(empty, tmp_path)
    assert empty == {"GOMP_SPINCOUNT": "1000", "OMP_NUM_THREADS": "2"}
    for given in (
        {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "7"},
        {"GOMP_SPINCOUNT": "5", "OMP_NUM_THREADS": "1"},
    ):
        kept = dict(given)
        share_cores(kept, tmp_path)
        assert kept == given
    (tmp_path / "cpu.max").write_text("800000 100000\n")
    whole: dict[str, str] = {}
    share_cores(whole, tmp_path)
    assert whole == {"GOMP_SPINCOUNT": "1000"}


def test_a_command_sets_it_before_torch_is_loaded():
    script = (
        "import os, sys\n"
        "for name in ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'): os.environ.pop(name, None)\n"
        "import fusion.commands.parser as parser\n"
        "def parse(arguments):\n"
        "    assert 'torch' not in sys.modules\n"
        "    print(os.environ['GOMP_SPINCOUNT'])\n"
        "    raise SystemExit(0)\n"
        "parser.parse = parse\n"
        "from fusion.cli import main\n"
        "main(['doctor'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr
