"""Minicubes of other places, sizes and lengths: what is cut from them, and that the experiment runs on them."""

from __future__ import annotations

import numpy as np
import pytest

from fusion.experiments.tokens import temperature
from fusion.experiments.tokens.temperature import generate, open_places
from fusion.workflow.state import State

BINS = {"kind": "bins", "step": 5, "bins": 4}
MODEL = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "tokenizers": {"s2": BINS, "temperature": BINS}}


def minicube(path, *, begin, days, every, side, bands=("eobs_rr", "eobs_tg")):
    rng = np.random.default_rng(days)
    first = np.datetime64(begin)
    images = np.arange(2, days, every)
    np.savez(
        path,
        s2=rng.integers(500, 3000, (len(images), 4, side, side)).astype(np.uint16),
        s2_dates=(first + images).astype("S10"),
        cloud_mask=np.zeros((len(images), side, side), np.uint8),
        meteo=np.stack([np.full(days, -99.0), 10 + np.arange(days)], axis=1).astype(np.float32),
        meteo_vars=np.array(bands, "S8"),
        meteo_dates=(first + np.arange(days)).astype("S10"),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two places of one zone and one whose name says nothing; of 40, 25 and 15 days, 8, 5 and 3 images."""
    folder = tmp_path_factory.mktemp("minicubes")
    minicube(folder / "1_29SND_39_-8.npz", begin="2021-02-01", days=40, every=5, side=16)
    minicube(folder / "2_29SND_39_-7.npz", begin="2021-02-21", days=25, every=5, side=24)
    minicube(folder / "meadow.npz", begin="2020-03-01", days=15, every=5, side=16)
    return folder


def test_places_may_differ_in_size_and_length(folder):
    parts, words = open_places(folder, tile=8, block=1, window=20, every=10)
    places = {"1_29SND_39_-8": 4, "2_29SND_39_-7": 9, "meadow": 4}  # one zone twice: named by their files
    assert {name: len(parts[f"season/{name}"]) for name in places} == places
    assert {name: len(parts[f"season/not {name}"]) for name in places} == {n: 17 - k for n, k in places.items()}
    long, short = parts["season/1_29SND_39_-8"][0], parts["season/meadow"][0]
    assert long.values["temperature"][:, 0, 0, 0].tolist() == list(range(10, 50))  # the column called eobs_tg
    valid = short.valid["temperature"]
    assert short.days["temperature"][valid].tolist() == list(range(60, 75))
    assert short.values["temperature"][valid][:, 0, 0, 0].tolist() == list(range(10, 25))
    assert [int(tile.valid["s2"].sum()) for tile in (long, short)] == [8, 3]
    # Windows of 20 days: three fit into 40 days, one into 25, none into 15.
    windows = {name.removeprefix("window/"): len(tiles) for name, tiles in parts.items() if name.startswith("window/")}
    assert (windows["1_29SND_39_-8"], windows["2_29SND_39_-7"], windows["all"]) == (12, 9, 21)
    assert "meadow" not in windows
    window = parts["window/1_29SND_39_-8"][4]
    assert window.days["temperature"].tolist() == list(range(20))
    assert window.values["temperature"][0, 0, 0, 0] == 20
    assert "1_29SND_39_-8 2021-02-01 to 2021-03-12" in words


def test_the_calendar_spans_the_days_of_the_data(folder):
    tiles = open_places(folder, tile=8, block=1, window=20)[0]["season/all"]
    assert temperature._span(tiles) == (31, 75)
    given = {"model": {"tokenizers": {"s2": {"step": 10}, "t": {"step": 5, "start": 40, "length": 3}, "dem": {"k": 2}}}}
    spanned = temperature._spanning(given, 31, 74)["model"]["tokenizers"]
    assert spanned["s2"] == {"step": 10, "start": 31, "length": 5}
    assert spanned["t"] == {"step": 5, "start": 40, "length": 3}
    assert spanned["dem"] == {"k": 2}


@pytest.mark.parametrize("places", [pytest.param(3, marks=pytest.mark.slow), 1])
def test_the_experiment_runs_on_any_number_of_places(folder, tmp_path, places):
    source = tmp_path / "some"
    source.mkdir()
    for path in sorted(folder.glob("*.npz"))[:places]:
        (source / path.name).write_bytes(path.read_bytes())
    parts, _ = open_places(source, tile=8, block=1, window=15)
    state = State(tmp_path, 0, parts)
    recipe = {"bins": {"model": MODEL, "steps": 4, "batch_size": 4}}
    told = generate(state, recipes={"season": recipe}, samples=1, how={"steps": 1})
    assert np.isfinite(state.metrics["season_by_block"]["model"]["rmse"])
    if places == 1:
        assert "season by place left out: one place alone, portugal" in told
        assert "season_by_place" not in state.metrics
    else:
        assert "17 seasons scored" in state.metrics["season_by_place"]["conditions"]
        assert np.isfinite(state.metrics["season_by_place"]["model"]["rmse"])


def test_cubes_that_cannot_be_used_are_named(tmp_path):
    minicube(tmp_path / "a.npz", begin="2021-02-01", days=12, every=5, side=8)
    with pytest.raises(ValueError, match=r"a.npz: 8 x 8 pixels hold no tile of 16 x 16"):
        open_places(tmp_path)
    with pytest.raises(ValueError, match="the longest series of temperature has 12 days, fewer than window=60"):
        open_places(tmp_path, tile=8)
    minicube(tmp_path / "a.npz", begin="2021-02-01", days=12, every=5, side=8, bands=("eobs_rr", "x"))
    with pytest.raises(ValueError, match=r"a.npz: meteo_vars are eobs_rr, x; eobs_tg, the daily mean, is wanted"):
        open_places(tmp_path, tile=8)
    np.savez(tmp_path / "a.npz", s2=np.zeros(3))
    with pytest.raises(ValueError, match=r"a.npz: no cloud_mask, s2_dates, meteo, meteo_dates"):
        open_places(tmp_path, tile=8)
