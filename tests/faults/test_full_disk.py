"""Where a disk is full commands say so, keep what there was, and come to the same end once there is room."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from .commands import files, options, require_in_words, run
from .conftest import LANDSCAPE

TRIALS = 4


@pytest.mark.extra
@pytest.mark.parametrize("kind", ["pretrain", "embed.tif", "embed.zarr", "embed.parquet", "predict.tif", "cube.zarr"])
def test_a_full_disk_is_told_and_gone_on_from(kind, pretraining, pretrained, cubes, tmp_path, tally):
    words, name = list[str](), f"map{Path(kind).suffix}"
    ground = options({"data": "landscape", "reader": LANDSCAPE, "precision": "float32"})
    if kind == "pretrain":
        words, name = pretraining["omnisat"], "run"
    elif kind == "predict.tif":
        few = options({"data": "landscape", "reader": LANDSCAPE, "training": {"epochs": 1}, "control": False})
        few = ["finetune", str(pretrained["omnisat"]), *few]
        assert run([*few, "--out", str(tmp_path / "tuned")], tmp_path / "log").status == 0
        words = ["predict", str(tmp_path / "tuned"), *ground]
    elif kind == "cube.zarr":
        words = ["embed", str(pretrained["context"]), *options({"data": str(cubes), "block": 8})]
        name = "map"
    else:
        words = ["embed", str(pretrained["omnisat"]), *ground]
    assert run([*words, "--out", str(tmp_path / "whole" / name)], tmp_path / "log").status == 0
    wanted = _kept(tmp_path / "whole")
    largest, draw, survived, met = max(map(len, wanted.values())), random.Random(kind), 0, 0
    for number in range(TRIALS):
        out = tmp_path / str(number) / name
        ended = run([*words, "--out", str(out)], tmp_path / "log", largest=max(2**12, int(draw.random() * largest)))
        require_in_words(ended)
        assert ended.status in (0, 2), ended
        assert ended.status == 0 or any(
            told in ended.said for told in ("disk is full", "file size limit", "File too large", "needed")
        ), ended
        met += ended.status == 2
        again = run([*words, "--out", str(out)], tmp_path / "log")
        survived += again.status == 0 and _kept(tmp_path / str(number)) == wanted
    tally("full disk", TRIALS, survived)
    assert survived == TRIALS
    assert met


def _kept(folder: Path) -> dict[str, bytes]:
    """Models, or maps but for their items, which have the time of writing."""
    models = files(folder, "*.safetensors")
    return models or {name: content for name, content in files(folder, "*").items() if not name.endswith("map.json")}
