"""Maps that are stopped and gone on with, and what is in memory while they are made."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from fusion.data import ArrayTiles
from fusion.embed import predict_map
from fusion.embed.blend import Told
from fusion.embed.blended import blended
from fusion.embed.mosaic import Canvas
from fusion.embed.strips import strips
from fusion.embed.working import WorkingFolder, WorkingRaster

from .ground import CLASSES, CRS, HEIGHT, WIDTH, cut, finetuned, scene, stop_at

REPOSITORY = Path(__file__).resolve().parents[2]
ROWS = 200  # four strips of 64 rows


def tall() -> ArrayTiles:
    """Overlapping tiles, some of which reach from one strip into the next."""
    return cut(scene(ROWS, 24), (6, 6), missing=(7,))


def of_classes(tiles: ArrayTiles):
    return finetuned(tiles, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def tiles() -> ArrayTiles:
    return tall()


@pytest.fixture(scope="module")
def module(tiles):
    return of_classes(tiles)


@pytest.fixture(scope="module")
def uninterrupted(tiles, module, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    predict_map(module, tiles, folder / "map.tif", probabilities=True, batch_size=5)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files but the item, which has the time of writing where the data have no dates."""
    assert (folder / "map.json").is_file()
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".json"}


@pytest.mark.parametrize("strip", [0, 2])
def test_a_map_that_was_stopped_goes_on_and_has_the_bytes_of_one_that_was_not(
    strip, tiles, module, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_at(patch, strip, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            predict_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=5)
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif.partial"]
    seen = []
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda batch: seen.append(len(batch)) or forward(batch))
    predict_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=5)
    assert contents(tmp_path) == uninterrupted
    if strip:  # rows from 128 on, of 200: those above are not computed again
        assert sum(seen) < 0.5 * len(tiles)


def test_a_map_killed_in_the_middle_goes_on(tiles, module, uninterrupted, tmp_path):
    script = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from fusion.embed import predict_map\n"
        "from fusion.embed.working import WorkingRaster\n"
        "from tests.embed.test_predict_resume import of_classes, tall\n"
        "noted = WorkingRaster._note\n"
        "def note(self, entry):\n"
        "    if entry['strip'] == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    noted(self, entry)\n"
        "WorkingRaster._note = note\n"
        f"predict_map(of_classes(tall()), tall(), {str(tmp_path / 'map.tif')!r}, probabilities=True, batch_size=5)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    journal = tmp_path / "map.tif.partial" / "0" / "journal.jsonl"
    assert [json.loads(line)["strip"] for line in journal.read_text().splitlines()] == [0]
    with open(journal, "a") as file:
        file.write('{"strip": 1, "obs')  # as a machine leaves it that lost its power
    predict_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=5)
    assert contents(tmp_path) == uninterrupted


@pytest.mark.parametrize("gone", [False, True])
def test_of_several_rasters_those_that_are_whole_are_not_made_again(gone, module, tmp_path, monkeypatch):
    ground = scene(ROWS, 24)
    far = [cut(ground, (6, 6)), cut(ground, (6, 6))]
    places = [*far[0].places(), *(replace(place, crs="EPSG:32633") for place in far[1].places())]
    both = np.concatenate([np.stack([t[i].values["aerial"].numpy() for i in range(len(t))]) for t in far])
    two = ArrayTiles(far[0].modalities, {"aerial": both}, grid=far[0].grid, places=places)
    whole = predict_map(module, two, tmp_path / "whole.tif")
    finished = []
    with monkeypatch.context() as patch:
        patch.setattr(WorkingRaster, "finish", lambda self: finished.append(1) or _stop_second(finished, self))
        with pytest.raises(RuntimeError, match="enough"):
            predict_map(module, two, tmp_path / "map.tif")
    first = (tmp_path / "map" / whole[0].path.name).stat().st_mtime_ns
    if gone:  # somebody has moved it away
        (tmp_path / "map" / whole[0].path.name).unlink()
    again = predict_map(module, two, tmp_path / "map.tif")
    assert ((tmp_path / "map" / whole[0].path.name).stat().st_mtime_ns == first) != gone
    assert [a.path.read_bytes() for a in again] == [w.path.read_bytes() for w in whole]
    assert [a.shape for a in again] == [w.shape for w in whole]
    assert not (tmp_path / "map.tif.partial").exists()


def _stop_second(finished: list[int], raster: WorkingRaster) -> None:
    if len(finished) == 2:
        raise RuntimeError("enough")
    raster._note({"complete": {}})


def test_the_beginning_of_another_map_is_refused_and_thrown_away_only_when_asked(
    tiles, module, uninterrupted, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_at(patch, 2, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            predict_map(module, tiles, tmp_path / "map.tif", batch_size=5)
    with pytest.raises(
        ValueError, match=r"sheets \['prediction'\] there, \['prediction', 'probabilities'\] now.*--restart"
    ):
        predict_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=5)
    other = finetuned(tiles, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))
    with torch.no_grad():
        next(other.head.parameters()).add_(0.1)
    with pytest.raises(ValueError, match=r"model '[0-9a-f]{16}' there"):
        predict_map(other, tiles, tmp_path / "map.tif", batch_size=5)
    with pytest.raises(ValueError, match=r"data '[0-9a-f]{16}' there"):
        predict_map(module, cut(scene(ROWS, 24) + 0.01, (6, 6), missing=(7,)), tmp_path / "map.tif", batch_size=5)
    predict_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=5, restart=True)
    assert contents(tmp_path) == uninterrupted


def test_a_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "map.tif.partial").mkdir()
    (tmp_path / "map.tif.partial" / "thesis.txt").write_text("mine")
    for restart in (False, True):
        with pytest.raises(ValueError, match="in the way"):
            WorkingFolder(tmp_path / "map.tif.partial", {}, restart=restart)
    assert (tmp_path / "map.tif.partial" / "thesis.txt").read_text() == "mine"


def test_a_folder_that_was_only_begun_is_taken_up_and_removed_whole(tmp_path):
    path = tmp_path / "map.tif.partial"
    path.mkdir()
    (path / ".job.json.partial").write_text('{"mod')  # a kill at the very beginning
    folder = WorkingFolder(path, {"model": "a"})
    assert folder.job == WorkingFolder(path, {"model": "a"}).job == {"model": "a"}
    folder.raster("0").add(0, {}, np.zeros((1, 1, 1)), True, told(cut(scene(), (8, 12)), 1))
    assert WorkingFolder(path, {"model": "a"}).raster("0").done == {0}
    folder.remove()
    assert not list(tmp_path.iterdir())


def told(tiles: ArrayTiles, depth: int) -> Told:
    """Says of every pixel its red value, ``depth`` times."""
    return Told(
        lambda batch: batch.values["aerial"][:, 0, ..., None].expand(-1, -1, -1, depth),
        (HEIGHT, WIDTH),
        tiles,
        16,
        0,
        torch.device("cpu"),
    )


def test_strips_need_the_memory_of_some_rows_of_tiles_whatever_the_size_of_the_map():
    def peak(rows: int) -> tuple[int, int]:
        """Largest memory in bytes beyond the tiles, and rows that were given."""
        tiles = cut(scene(rows, WIDTH), (HEIGHT, WIDTH))
        corners = np.stack([np.arange(0, rows, HEIGHT), np.zeros(rows // HEIGHT, dtype=int)], axis=1)
        canvas = Canvas(rasterio.Affine(1, 0, 0, 0, -1, 0), CRS, (rows, WIDTH), np.arange(len(tiles)), corners)
        tracemalloc.start()
        given = sum(len(strip.values) for strip in strips(told(tiles, 64), canvas, 16))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used, given

    peak(80)  # what is imported and cached at first
    (small, rows), (large, more) = peak(400), peak(8000)
    assert (rows, more) == (400, 8000)
    whole = 8000 * WIDTH * 64 * 4
    assert large < small + 0.02 * whole
    assert large < 0.1 * whole


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("twice", [False, True], ids=["all places differ", "one tile lies on another"])
def test_many_tiles_at_a_time_have_the_bits_of_one_after_the_other(flipped, twice):
    rng = np.random.default_rng(0)
    tiles = cut(rng.normal(size=(2, 24, 140)).astype(np.float32), (4, 4), missing=(3, 40))  # 33 tiles in a row
    corners = np.array([[int(part[1:]) for part in name.split("_")] for name in tiles.names])
    if twice:
        corners[8] = corners[7]
    canvas = Canvas(rasterio.Affine(1, 0, 0, 0, -1, 0), CRS, (24, 140), np.arange(len(tiles)), corners, flipped=flipped)

    def found(batch_size: int) -> list[np.ndarray]:
        saying = told(tiles, 3)
        saying.batch_size = batch_size
        parts = list(strips(saying, canvas, 10))
        return [np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "owner")]

    one = found(1)
    for batch_size in (13, 64):
        for found_one, found_many in zip(one, found(batch_size), strict=True):
            np.testing.assert_array_equal(found_one, found_many)


def test_strips_are_the_blend_of_all_tiles_with_the_bits_of_any_beginning(tiles, tmp_path):
    rows = [[int(part[1:]) for part in name.split("_")] for name in tiles.names]
    shuffled = np.random.default_rng(0).permutation(len(tiles))
    canvas = Canvas(rasterio.Affine(1, 0, 0, 0, -1, 0), CRS, (ROWS, 24), shuffled, np.array(rows)[shuffled])
    whole = list(strips(told(tiles, 2), canvas, 48))
    assert [strip.top for strip in whole] == [0, 48, 96, 144, 192]
    assert [len(strip.values) for strip in whole] == [48, 48, 48, 48, 8]
    for first in range(5):
        for one, other in zip(whole[first:], strips(told(tiles, 2), canvas, 48, first=first, depth=2), strict=True):
            assert np.array_equal(one.values, other.values, equal_nan=True)
            assert np.array_equal(one.owner > 0, other.owner > 0)
    values = np.concatenate([strip.values for strip in whole])[..., 0]
    covered = ~np.isnan(values)
    np.testing.assert_allclose(values[covered], scene(ROWS, 24)[0][covered], atol=1e-5)
    blend = blended(told(tiles, 2), canvas, tmp_path / "any.tif", WorkingRaster(tmp_path / "working"), 2)
    assert np.array_equal(blend.values[..., 0], values, equal_nan=True)
