"""In which format a map is made where nobody says it: the faster one that does no harm, the same one to its end."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.data import ArrayTiles
from fusion.data.files import DamagedFile
from fusion.embed import embed_map, estimate_map, precision, predict_map, trial
from fusion.embed.blend import Told
from fusion.embed.precision import decided
from fusion.embed.trial import try_on, try_on_map

from .ground import CLASSES, GRID, cut, finetuned, scene, stop_at

CPU = torch.device("cpu")


def in_bfloat16() -> bool:
    return torch.is_autocast_enabled("cpu")


def told(tiles: ArrayTiles, say) -> Told:
    return Told(say, GRID, tiles, 1, 0, CPU)


@pytest.fixture
def tiles() -> ArrayTiles:
    return cut(scene(120, 36), (4, 12))  # 87


@pytest.fixture
def able(monkeypatch):
    """A processor that calculates in bfloat16, and maps of two batches that are worth a trial."""
    monkeypatch.setattr(precision, "bfloat16_unavailable", lambda device: "")
    monkeypatch.setattr(trial, "_BATCHES", 2)


@pytest.fixture
def tried(monkeypatch):
    """Trials end as they are told, and are counted."""
    trials = []

    def say(chosen: str) -> list[int]:
        monkeypatch.setattr(
            trial, "try_on", lambda run, batch: trials.append(len(batch)) or setattr(run, "precision", chosen)
        )
        return trials

    return say


@pytest.mark.parametrize(
    ("slower", "apart", "chosen"), [(False, 0.0, "bfloat16"), (True, 0.0, "float32"), (False, 0.1, "float32")]
)
def test_bfloat16_is_taken_if_it_is_faster_and_says_nearly_the_same(slower, apart, chosen, tiles):
    def say(batch) -> Tensor:
        lower = in_bfloat16()
        time.sleep(0.01 if lower != slower else 0.02)
        return torch.full((len(batch), *GRID, 1), 1 + apart if lower else 1.0)

    run = told(tiles, say)
    outcome = try_on(run, tiles.gather(range(5))[1])
    assert run.precision == chosen
    assert outcome.difference == pytest.approx(apart, abs=1e-6)
    assert f"{chosen}: a batch of 5 tiles takes 0.0" in str(outcome)


def test_cells_that_are_no_number_in_either_format_count_for_nothing(tiles):
    nan = torch.tensor([1.0, torch.nan]).repeat(3).view(*GRID, 1)
    assert try_on(told(tiles, lambda batch: nan.repeat(len(batch), 1, 1, 1)), tiles.gather([0])[1]).difference == 0


def test_what_is_decided_without_a_trial(monkeypatch):
    assert [decided(word, CPU) for word in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    monkeypatch.setattr(precision, "bfloat16_unavailable", lambda device: "it has none")
    assert decided("auto", CPU) == decided("auto", torch.device("cuda")) == "float32"
    monkeypatch.setattr(precision, "bfloat16_unavailable", lambda device: "")
    assert decided("auto", CPU) is None
    assert decided("auto", torch.device("cuda")) == "bfloat16"
    with pytest.raises(ValueError, match="precision is auto, float32 or bfloat16, not 'half'"):
        decided("half", CPU)


def test_tiles_that_cannot_be_read_or_have_nothing_are_passed_over(able, tried, monkeypatch):
    tiles, gather = cut(scene(120, 36), (4, 12), missing=tuple(range(25))), ArrayTiles.gather

    def damaged(self, numbers):
        if min(numbers) < 50 <= max(numbers) + 25:
            raise DamagedFile("damaged")
        return gather(self, numbers)

    monkeypatch.setattr(ArrayTiles, "gather", damaged)
    trials = tried("bfloat16")
    assert try_on_map(told(tiles, None), 40) == "bfloat16"
    assert trials == [10]
    monkeypatch.setattr(ArrayTiles, "gather", lambda self, numbers: ([False] * len(numbers), None))
    assert try_on_map(told(tiles, None), 40) == "float32"


def test_a_map_of_few_batches_is_not_worth_a_trial(able, tried, tiles):
    trials = tried("bfloat16")
    assert try_on_map(told(tiles, None), 44) == "float32"
    assert not trials
    assert try_on_map(told(tiles, None), 43) == "bfloat16"


@pytest.mark.parametrize("kind", ["embed", "predict"])
@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_map_is_as_if_the_format_had_been_asked_for(kind, chosen, able, tried, tiles, tmp_path):
    module = finetuned(tiles, "multiclass", CLASSES)
    make, of = (embed_map, module.model) if kind == "embed" else (predict_map, module)
    trials = tried(chosen)
    make(of, tiles, tmp_path / "auto.tif", precision="auto", batch_size=20)
    assert trials == [5]
    make(of, tiles, tmp_path / "asked.tif", precision=chosen, batch_size=20)
    assert (tmp_path / "auto.tif").read_bytes() == (tmp_path / "asked.tif").read_bytes()


def test_tiles_without_a_place_and_estimates_have_a_trial_too(able, tried, tmp_path):
    tiles = cut(scene(120, 36), (4, 12), placed=False)
    module = finetuned(tiles, "multiclass", CLASSES)
    formats: set[bool] = set()
    module.model.register_forward_hook(lambda *_: formats.add(in_bfloat16()))
    tried("bfloat16")
    for make, of in ((embed_map, module.model), (predict_map, module), (estimate_map, module)):
        formats.clear()
        make(of, tiles, tmp_path / "map.tif", precision="auto", batch_size=20)
        assert formats == {True}


def test_a_map_that_is_gone_on_with_keeps_its_format_whatever_a_trial_would_say_now(able, tried, tmp_path, monkeypatch):
    tiles = cut(scene(600, 16), (4, 4))
    model = finetuned(tiles, "multiclass", CLASSES).model
    settings = {"precision": "auto", "batch_size": 20}
    trials = tried("bfloat16")
    embed_map(model, tiles, tmp_path / "whole.tif", **settings)
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            embed_map(model, tiles, tmp_path / "map.tif", **settings)
    assert json.loads((tmp_path / "map.tif.partial" / "job.json").read_text())["precision"] == "bfloat16"
    trials.clear()
    tried("float32")
    with pytest.raises(ValueError, match="precision 'bfloat16' there, 'float32' now"):
        embed_map(model, tiles, tmp_path / "map.tif", precision="float32", batch_size=20)
    embed_map(model, tiles, tmp_path / "map.tif", **settings)
    assert not trials
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_a_trial_of_a_real_model_agrees_to_two_digits(able, tiles):
    module = finetuned(tiles, "multiclass", CLASSES)
    run = told(tiles, lambda batch: module.model(batch).patches.unflatten(1, GRID))
    outcome = try_on(run, tiles.gather(range(20))[1])
    assert 0 < outcome.difference < 0.02
    assert np.isfinite(outcome.seconds).all()
    assert min(outcome.seconds) > 0


def test_whoever_makes_maps_needs_no_trainer():
    """Lightning takes 300 MiB and seconds."""
    told = subprocess.run(
        [sys.executable, "-c", "import sys, fusion.embed; print('lightning' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "False"
