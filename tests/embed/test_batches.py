"""How many tiles a map takes at a time, where nobody says it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from fusion.data import ArrayTiles
from fusion.data.files import DamagedFile
from fusion.embed import embed_map, estimate_map, predict_map
from fusion.embed.batches import fitting_batch, usual_batch
from fusion.embed.blend import Told

from .ground import CLASSES, GRID, cut, finetuned, scene, stop_at

FIXED, EACH = 4_000_000, 1_000_000  # bytes of the network below: whatever it is asked, and of every tile


def network(batch) -> Tensor:
    """(B, 2, 3, 1) of something large that is made on the way."""
    fixed = torch.zeros(FIXED, dtype=torch.uint8)
    each = torch.zeros(len(batch), EACH, dtype=torch.uint8)
    return (fixed[0] + each[:, :6]).float().view(-1, *GRID, 1)


def told(tiles: ArrayTiles, asked=network) -> Told:
    return Told(asked, GRID, tiles, 1, 0, torch.device("cpu"))


@pytest.fixture
def tiles() -> ArrayTiles:
    return cut(scene(120, 36), (4, 12))


@pytest.fixture
def free(monkeypatch):
    """Sets what of the memory is free, in bytes."""

    def say(count: float) -> None:
        monkeypatch.setattr("fusion.embed.batches.available_memory", lambda device: int(count))

    return say


def test_a_usual_batch_has_about_two_thousand_patches():
    assert [usual_batch(grid) for grid in ((1, 1), (6, 6), (16, 16), (100, 100))] == [1024, 56, 8, 8]
    assert usual_batch((3, 2)) == 341


@pytest.mark.parametrize(("megabytes", "fits"), [(1000, 87), (60, 25), (20, 5), (12, 1), (11, 1)])
def test_as_many_tiles_as_half_of_the_free_memory_holds(megabytes, fits, tiles, free):
    free(megabytes * 1e6)
    assert len(tiles) == 87
    assert fitting_batch(told(tiles)) == fits


def test_one_tile_that_does_not_fit_is_named_with_what_is_free(tiles, free):
    free(6e6)
    with pytest.raises(ValueError, match=r"tile 'r0_c0' alone takes more than 3.8 MiB .* 5.7 MiB are free.*batch_size"):
        fitting_batch(told(tiles))


def test_tiles_without_an_observation_and_damaged_ones_are_not_measured(free, monkeypatch):
    tiles = cut(scene(40, 36), (8, 12), missing=(0, 7))
    gather = ArrayTiles.gather

    def damaged(self, numbers):
        if len(numbers) == 1 and numbers[0] in (1, 2):
            raise DamagedFile("tile 1 is damaged")
        return gather(self, numbers)

    monkeypatch.setattr(ArrayTiles, "gather", damaged)
    free(20e6)
    asked = []
    assert fitting_batch(told(tiles, lambda batch: asked.append(batch.names) or network(batch))) == 5
    assert [len(names) for names in asked] == [1, 4]
    assert not {tiles.names[number] for number in (0, 1, 2, 7)} & {*asked[0], *asked[1]}


def test_a_network_in_bfloat16_is_measured_as_it_runs(tiles, free):
    """Products of what autocast has cast with what it has not, which it casts, too."""
    weight = torch.ones(192, 6)

    def mixed(batch) -> Tensor:
        network(batch)
        half = torch.nn.functional.linear(batch.values["aerial"].flatten(1), weight.T)  # (B, 6)
        assert half.dtype == torch.bfloat16
        return torch.einsum("bi,ij->bj", half, torch.ones(6, 6)).view(-1, *GRID, 1)

    free(60e6)
    run = Told(mixed, GRID, tiles, 1, 0, torch.device("cpu"), precision="bfloat16")
    assert fitting_batch(run) == 25


def test_nothing_observed_is_left_to_the_map(free):
    free(20e6)
    tiles = cut(np.full((2, 24, 36), np.nan, np.float32), (8, 12))
    assert fitting_batch(told(tiles)) == len(tiles)


@pytest.mark.parametrize("kind", ["embed", "predict"])
def test_a_map_that_is_gone_on_with_keeps_its_batches_whatever_is_free_now(kind, tmp_path, free, monkeypatch):
    tiles = cut(scene(600, 16), (4, 4))
    module = finetuned(tiles, "multiclass", CLASSES)
    make, of = (embed_map, module.model) if kind == "embed" else (predict_map, module)
    sizes: list[int] = []
    forward = module.model.forward
    monkeypatch.setattr(module.model, "forward", lambda batch: sizes.append(len(batch)) or forward(batch))
    few = 600_000
    free(few)
    make(of, tiles, tmp_path / "whole.tif")
    size = max(sizes[2:])  # after two measurements
    assert 1 < size < len(tiles)

    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            make(of, tiles, tmp_path / "map.tif")
    assert json.loads((tmp_path / "map.tif.partial" / "job.json").read_text())["batch_size"] == size
    free(100 * few)
    with pytest.raises(ValueError, match=f"batch_size {size} there, {size + 1} now"):
        make(of, tiles, tmp_path / "map.tif", batch_size=size + 1)
    sizes.clear()
    make(of, tiles, tmp_path / "map.tif")
    assert max(sizes) == size
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


def test_tiles_without_a_place_and_estimates_are_measured_too(tmp_path, free, monkeypatch):
    tiles = cut(scene(120, 36), (4, 12), placed=False)
    module = finetuned(tiles, "multiclass", CLASSES)
    sizes: list[int] = []
    forward = module.model.forward
    monkeypatch.setattr(module.model, "forward", lambda batch: sizes.append(len(batch)) or forward(batch))
    free(600_000)
    for make, of in ((embed_map, module.model), (predict_map, module), (estimate_map, module)):
        sizes.clear()
        make(of, tiles, tmp_path / "map.npz")
        assert sizes[:2] == [1, 4]
        assert 1 < max(sizes[2:]) < len(tiles)


def test_no_tile_at_a_time_is_refused(tiles, tmp_path):
    module = finetuned(tiles, "multiclass", CLASSES)
    for make, of in ((embed_map, module.model), (predict_map, module), (estimate_map, module)):
        with pytest.raises(ValueError, match="batch_size is 1 or more tiles at a time, not 0"):
            make(of, tiles, tmp_path / "map.tif", batch_size=0)
