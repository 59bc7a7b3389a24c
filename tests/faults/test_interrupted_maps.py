"""Maps that are killed and interrupted at random moments, or made by two processes at once, have the same bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from .commands import Command, files, interrupted, options, require_in_words, run
from .conftest import LANDSCAPE

STOPS = 3
# By kind: trials that are stopped, and that are made by two.
KINDS = {"embed.tif": (6, 3), "embed.zarr": (4, 2), "embed.parquet": (4, 2), "predict.tif": (6, 3), "cube.zarr": (6, 3)}


@pytest.fixture(scope="module")
def making(pretrained: dict[str, Path], cubes: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """By kind the words of a command but for its file."""
    ground = options(
        {"data": "landscape", "reader": LANDSCAPE | {"size": 192}, "batch_size": 4, "precision": "float32"}
    )
    folder = tmp_path_factory.mktemp("finetuned")
    few = options({"data": "landscape", "reader": LANDSCAPE, "training": {"epochs": 1}, "control": False})
    tuned = run(["finetune", str(pretrained["omnisat"]), *few, "--out", str(folder / "run")], folder / "log")
    assert tuned.status == 0, tuned
    embed = ["embed", str(pretrained["omnisat"]), *ground]
    cube = ["embed", str(pretrained["context"]), *options({"data": str(cubes), "block": 8})]
    return dict.fromkeys(("embed.tif", "embed.zarr", "embed.parquet"), embed) | {
        "predict.tif": ["predict", str(folder / "run"), *ground],
        "cube.zarr": cube,
    }


def made(folder: Path) -> dict[str, bytes]:
    """All that there is but items, which have the time of writing, and what names the folder."""
    found = files(folder, "*", ".*")
    return {name: content for name, content in found.items() if not name.endswith((".json.log", ".log", "map.json"))}


@pytest.mark.extra
@pytest.mark.parametrize("kind", KINDS)
def test_a_map_that_was_stopped_or_shared_has_the_same_bytes(kind, making, tmp_path, tally):
    name = "map" if kind == "cube.zarr" else f"map{Path(kind).suffix}"
    stopped, shared = KINDS[kind]
    started = time.perf_counter()
    ended = run([*making[kind], "--out", str(tmp_path / "whole" / name)], tmp_path / "log")
    assert ended.status == 0, ended
    seconds, wanted, draw = time.perf_counter() - started, made(tmp_path / "whole"), random.Random(kind)
    assert wanted
    same = 0
    for number in range(stopped):
        folder = tmp_path / str(number)
        interrupted([*making[kind], "--out", str(folder / name)], tmp_path / "log", draw, seconds, STOPS)
        same += made(folder) == wanted
    tally(f"stopped: {'embedding' if kind != 'predict.tif' else 'predicting'}", stopped, same)
    assert same == stopped
    same = 0
    for number in range(shared):
        folder = tmp_path / f"shared-{number}"
        words = [*making[kind], "--out", str(folder / name)]
        first = Command(words, tmp_path / "log-1")
        time.sleep(draw.uniform(0, seconds / 2))
        second = Command(words, tmp_path / "log-2")
        for ended in (first.end(), second.end()):
            require_in_words(ended)
            assert ended.status == 0, ended
        same += made(folder) == wanted
    tally("two at once: one map", shared, same)
    assert same == shared
