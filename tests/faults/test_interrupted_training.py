"""Trainings that are killed and interrupted at random moments end with the models of one that was not."""

from __future__ import annotations

import random
import time

import pytest

from .commands import files, interrupted, options, run
from .conftest import LANDSCAPE

TRIALS, STOPS = 4, 3
CASES = [
    *((system, validation) for system in ("omnisat", "token-fusion", "finetune") for validation in (True, False)),
    ("context", True),  # it takes its own validation, always
]


@pytest.mark.extra
@pytest.mark.parametrize(("system", "validation"), CASES)
def test_a_training_that_was_stopped_ends_with_the_same_models(
    system, validation, pretraining, pretrained, tmp_path, tally
):
    if system == "finetune":
        words = ["finetune", str(pretrained["omnisat"]), *options({"data": "landscape", "reader": LANDSCAPE})]
        words += options({"training": {"batch_size": 16, "epochs": 4}, "control": False})
    else:
        words = pretraining[system]
    if not validation:
        words = [*words, "--splits.val", "null"]
    started = time.perf_counter()
    ended = run([*words, "--out", str(tmp_path / "whole")], tmp_path / "whole.log")
    assert ended.status == 0, ended
    seconds, wanted = time.perf_counter() - started, files(tmp_path / "whole", "*.safetensors")
    assert wanted
    same, draw = 0, random.Random(f"{system} {validation}")
    for number in range(TRIALS):
        out = tmp_path / str(number)
        interrupted([*words, "--out", str(out)], tmp_path / f"{number}.log", draw, seconds, STOPS)
        same += files(out, "*.safetensors") == wanted
        assert not list(out.rglob(".lock"))
    tally("stopped: training", TRIALS, same)
    assert same == TRIALS
