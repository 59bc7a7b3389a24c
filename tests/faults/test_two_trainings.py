"""Of two trainings in one folder one is refused, and says which the other is; the model is that of one alone."""

from __future__ import annotations

import random
import time

import pytest

from .commands import Command, files, require_in_words, run

TRIALS = 6


@pytest.mark.extra
def test_of_two_trainings_in_one_folder_one_is_refused(pretraining, tmp_path, tally):
    words, draw = pretraining["token-fusion"], random.Random(0)
    started = time.perf_counter()
    assert run([*words, "--out", str(tmp_path / "whole")], tmp_path / "log").status == 0
    seconds, wanted = time.perf_counter() - started, files(tmp_path / "whole", "*.safetensors")
    survived = 0
    for number in range(TRIALS):
        both = [*words, "--out", str(tmp_path / str(number))]
        first = Command(both, tmp_path / "log-1")
        time.sleep(draw.uniform(0, seconds))
        second = Command(both, tmp_path / "log-2")
        ended = [first.end(), second.end()]
        for one in ended:
            require_in_words(one)
        refused = [one for one in ended if one.status]
        # None is where the first had ended before the second began.
        assert all(one.status == 2 and "is in use: process" in one.said for one in refused), ended
        survived += len(refused) < 2 and files(tmp_path / str(number), "*.safetensors") == wanted
    tally("two at once: one run folder", TRIALS, survived)
    assert survived == TRIALS
