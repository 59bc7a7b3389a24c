"""Two processes do not write into one folder of results."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.training.run_lock import LOCK, alone_in

RANKS = "RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"
HOLDER = """
import sys, time
from pathlib import Path
from fusion.training.run_lock import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True, env=_single()
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def _single() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k not in RANKS}


def test_the_second_is_refused_and_told_who_is_there(tmp_path, holder):
    told = rf"run is in use: process {holder.pid} on .* since 20.*give another folder"
    with pytest.raises(RuntimeError, match=told), alone_in(tmp_path / "run"):
        pass


def test_a_lock_dies_with_its_holder(tmp_path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with alone_in(tmp_path / "run"):
        (tmp_path / "run" / "metrics.json").write_text("{}")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["metrics.json"]


def test_who_holds_a_folder_may_come_again_until_the_first_has_left(tmp_path):
    with alone_in(tmp_path / "run"):
        with alone_in(tmp_path / "other" / ".." / "run"):
            pass
        assert (tmp_path / "run" / LOCK).is_file()
    assert not (tmp_path / "run").exists()  # nothing was written into it


@pytest.mark.parametrize("name", RANKS)
def test_other_ranks_leave_it_to_the_first(tmp_path, holder, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with alone_in(tmp_path / "run"):
        pass


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "a"):
        with pytest.raises(ValueError, match="is a file, or lies in one"), alone_in(folder):
            pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(victim)
    with pytest.raises(RuntimeError, match="cannot write into"), alone_in(tmp_path / "run"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("command", ["pretrain", "experiment"])
def test_commands_refuse_a_folder_in_use(tmp_path, holder, command):
    given = ["--data", "landscape", "--size", "tiny"] if command == "pretrain" else ["demo", "--short"]
    done = subprocess.run(
        [sys.executable, "-m", "fusion", command, *given, "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=_single(),
    )
    assert done.returncode == 2
    assert f"in use: process {holder.pid}" in done.stderr
    assert [file.name for file in (tmp_path / "run").iterdir()] == [LOCK]
