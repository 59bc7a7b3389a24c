"""What a map will take, told before it is made, and how far it is."""

from __future__ import annotations

import re

import numpy as np
import pytest
import rasterio

from fusion.data import ArrayTiles, Modality
from fusion.embed import estimate_map, predict_map
from fusion.embed import progress as module_of_progress
from fusion.embed.estimate import Estimate, _spread
from fusion.embed.progress import Progress, duration
from fusion.embed.working import WorkingRaster

from .ground import CLASSES, HEIGHT, WIDTH, cut, finetuned, scene


@pytest.fixture(scope="module")
def tiles() -> ArrayTiles:
    return cut(scene(200, 48), (HEIGHT, WIDTH))  # 25 x 4 tiles


@pytest.fixture(scope="module")
def module(tiles):
    return finetuned(tiles, "multiclass", CLASSES, label_shape=(HEIGHT, WIDTH))


def test_an_estimate_counts_the_pixels_of_the_map_and_writes_nothing(tiles, module, tmp_path):
    told = estimate_map(module, tiles, tmp_path / "map.tif", probabilities=True, batch_size=4)
    assert told.pixels == 200 * 48
    assert told.seconds > 0
    assert told.rate == pytest.approx(told.pixels / told.seconds)
    assert told.memory > 2**26, "an interpreter with torch"
    assert str(told).startswith("200 x 48 pixels: 0.0 million pixels at ")
    assert not list(tmp_path.iterdir())


def test_the_size_of_a_map_that_cannot_be_compressed_is_that_of_its_numbers(tiles, module, tmp_path):
    height = finetuned(
        tiles, "regression", ("height",), label_shape=(HEIGHT, WIDTH), target_mean=[20.0], target_std=[5.0]
    )
    assert estimate_map(height, tiles, tmp_path / "map.tif").size == pytest.approx(200 * 48 * 4 * 4 / 3, rel=0.15)


def test_an_estimate_is_of_a_few_batches_spread_over_all_tiles(tiles, module, tmp_path, monkeypatch):
    seen = []
    forward = module.forward
    monkeypatch.setattr(module, "forward", lambda batch: seen.append(batch.names[0]) or forward(batch))
    estimate_map(module, tiles, tmp_path / "map.tif", batch_size=4)
    assert len(seen) == 5
    assert [tiles.names.index(name) // 20 for name in seen] == [0, 1, 2, 3, 4]
    assert _spread(10, 4, 0).tolist() == list(range(10))


def test_an_estimate_tells_the_dates_and_the_words(tmp_path):
    series = Modality("s2", "series", ("B04", "B08"), 10.0, 4)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 7, 2, 8, 8)).astype(np.float32)
    days = np.tile(np.arange(7) * 10, (3, 1))
    data = ArrayTiles([series], {"s2": values}, days={"s2": days}, grid=(2, 2))
    module = finetuned(data, "multiclass", CLASSES, label_shape=(8, 8), grid=(2, 2))
    assert str(estimate_map(module, data, tmp_path / "map")).startswith("3 tiles of 8 x 8 pixels, 7 dates: ")
    told = Estimate("10,980 x 10,980 pixels", 50, 120_560_400, 41_000, 2940.5, 2040109466, 0, 107374182)
    assert str(told) == (
        "10,980 x 10,980 pixels, 50 dates: 120.6 million pixels at 41,000 a second: 49 min; memory 1.9 GiB; "
        "map 102.4 MiB"
    )
    assert [duration(s) for s in (0.4, 99, 150, 5990, 7200)] == ["0 s", "99 s", "2 min", "100 min", "2.0 h"]


def test_a_map_of_many_tiles_is_estimated_before_it_is_made_and_one_that_goes_on_for_its_rest(
    tiles, module, tmp_path, capsys, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(WorkingRaster, "finish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            predict_map(module, tiles, tmp_path / "map.tif", batch_size=4, progress=True)
    assert "200 x 48 pixels: 0.0 million pixels" in capsys.readouterr().out
    journal = tmp_path / "map.tif.partial" / "0" / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:2]))  # rows up to 128
    told = []
    monkeypatch.setattr("fusion.embed.estimate.Estimate.__str__", lambda self: told.append(self) or "")
    predict_map(module, tiles, tmp_path / "map.tif", batch_size=4, progress=True)
    assert [one.pixels for one in told] == [72 * 48]
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.shape == (200, 48)


def test_progress_tells_share_rate_and_rest_and_leaves_out_what_was_done_before(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(module_of_progress.time, "perf_counter", lambda: now[0])
    progress = Progress(1000, 4_000_000, shown=True)
    progress.skip(200)
    now[0] += 20
    progress.add(100)
    assert not capsys.readouterr().err, "a log has a line every 30 s"
    now[0] += 20
    progress.add(100)
    assert capsys.readouterr().err == " 40% of 4.0 million pixels, 20,000 a second, 2 min left\n"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    now[0] += 1
    progress.add(1)
    assert re.fullmatch(r"\r 40% of .* left\x1b\[K", capsys.readouterr().err)
