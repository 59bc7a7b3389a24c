"""What docs/token_fusion.md shows is what works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fusion.commands.parser import COMMANDS, PRESETS

TEXT = (Path(__file__).parents[2] / "docs" / "token_fusion.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def test_the_python_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    for block in BLOCKS:
        quick = block.replace("epochs=30", "epochs=1").replace('"codebook_size": 64', '"codebook_size": 64, "steps": 5')
        exec(quick, space)
    assert len(BLOCKS) == 4
    assert space["median"].shape == space["low"].shape == space["best"].shape == (8, 1, 72)
    assert space["image"].shape == (1, 8, 2, *space["train"].grid)
    assert "'amplitude'" in capsys.readouterr().out


@pytest.mark.parametrize("line", re.findall(r"^\$ fusion (.*)$", TEXT, re.M))
def test_the_commands_exist(line):
    command, *arguments = line.split()
    takes = {action.dest for action in COMMANDS[command].parser()._actions}
    for option in re.findall(r"--([a-z_]+)", line):
        assert option in takes, f"fusion {command} has no --{option}"
    if "--preset" in arguments:
        assert (PRESETS / f"{arguments[arguments.index('--preset') + 1]}.yaml").is_file()
