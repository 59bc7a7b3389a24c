"""Experiments with tokens on real data: what openers hand out, and that nothing held out reaches training."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fusion.experiments.tokens.crops import open_series
from fusion.experiments.tokens.gpp import open_flux_sites
from fusion.experiments.tokens.stations import _of_pairs, _unseen_by, open_stations
from fusion.experiments.tokens.temperature import open_places
from fusion.token_fusion.in_memory import Recipe, learn
from fusion.workflow import load_experiment, run_experiment

TINY = {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16}


def disjoint(*parts):
    names = [set(part.names) for part in parts]
    return sum(map(len, names)) == len(set.union(*names))


def test_places_are_cut_into_tiles_with_the_temperature_of_their_place(data_dir):
    parts, words = open_places(data_dir("minicubes_daily_climate"), tile=32)
    assert "32 tiles of 640 m" in words
    for kind in ("season", "window"):
        part = {name.partition("/")[2]: tiles for name, tiles in parts.items() if name.startswith(kind)}
        assert set(part) == {"all", "train", "val", "test", "portugal", "romania"}
        assert disjoint(part["portugal"], part["romania"])
        assert disjoint(part["train"], part["val"], part["test"])
        ground = [{name.rpartition("/")[0] for name in part[split].names} for split in ("train", "test")]
        assert not ground[0] & ground[1]  # windows of one tile stay together
        assert len(part["portugal"]) + len(part["romania"]) == len(part["all"])
    season, window = parts["season/portugal"], parts["window/portugal"]
    tile = season[0]
    assert tile.values["s2"].shape[1:] == (4, 32, 32)
    assert tile.values["temperature"].shape == (150, 1, 8, 8)
    assert (tile.values["temperature"] == season[5].values["temperature"]).all()
    assert len(window) == 10 * len(season)
    begin = int(window.names[-1].rpartition("/")[2])
    assert tile.days["temperature"][0] + 90 == begin
    last = window[len(window) - 1]
    assert last.days["temperature"].tolist() == list(range(60))  # the date is not given away
    assert (last.values["temperature"] == tile.values["temperature"][90:]).all()


def test_cloudy_and_missing_pixels_are_not_handed_out(data_dir):
    folder = data_dir("minicubes_daily_climate")
    tiles = open_places(folder)[0]["season/portugal"]
    with np.load(next(iter(sorted(folder.glob("*.npz"))))) as cube:
        s2, clouds = cube["s2"], cube["cloud_mask"]
    first = tiles[0]
    seen = (clouds[:, :16, :16] == 0) & (s2[:, :, :16, :16] > 0).all(1)
    assert first.valid["s2"].tolist() == (seen.mean((1, 2)) >= 0.5).tolist()
    date = int(np.flatnonzero(seen.all((1, 2)))[0])
    np.testing.assert_array_equal(first.values["s2"][date].numpy(), s2[date, :, :16, :16])


def test_crop_series_are_physical_and_their_splits_share_no_pixel(data_dir):
    parts, words = open_series(data_dir("worldcereal_can2017"))
    assert "3621 pixels: 2555" in words
    assert disjoint(parts["train"], parts["val"], parts["test"])
    assert disjoint(parts["labelled_train"], parts["labelled_val"], parts["labelled_test"])
    for split in ("train", "val", "test"):
        assert set(parts[f"labelled_{split}"].names) <= set(parts[split].names)
        assert parts[split].task is None  # labels cannot reach pretraining
    labelled = parts["labelled_train"]
    assert labelled.classes[:2] == ("Permanent grass crops", "Soya beans")
    assert np.bincount(labelled.labels()).min() >= 50
    tile = labelled[0]
    assert {name: tuple(values.shape) for name, values in tile.values.items()} == {
        "s2": (18, 9, 1, 1),
        "s1": (18, 2, 1, 1),
        "temperature": (18, 1, 1, 1),
        "precipitation": (18, 1, 1, 1),
    }
    air = np.stack([parts["train"][i].values["temperature"].numpy() for i in range(0, 500, 25)]).mean((0, 2, 3, 4))
    assert air[6] > 15
    assert air[0] < 0  # a continental year from January on
    radar = tile.values["s1"][tile.valid["s1"]]
    assert ((radar > -35) & (radar < 5)).all()


def test_stations_have_their_terrain_and_terrain_has_no_station(data_dir):
    parts, words = open_stations(data_dir("daily_temperature_stations"), places=50)
    assert words == "61 stations, 28 of them on the raster, and 50 windows of terrain"
    assert disjoint(parts["inside"], parts["outside"], parts["terrain"])
    assert set(parts["stations"].names) == set(parts["inside"].names) | set(parts["outside"].names)
    assert all("terrain" not in parts["outside"][i].values for i in range(5))
    assert all("temperature" not in parts["terrain"][i].values for i in range(5))
    mountain = parts["inside"][parts["inside"].names.index("Kopaonik")]
    assert mountain.values["terrain"].shape == (2, 9, 9)
    latitude, longitude, height = mountain.values["location"][:, 0, 0].tolist()
    assert (round(latitude, 2), round(longitude, 2), height) == (43.28, 20.8, 1711.0)
    assert abs(mountain.values["terrain"][0, 4, 4].item() - 1697) < 1  # the raster's value at the station
    valid = mountain.valid["temperature"]
    assert mountain.values["temperature"][valid].mean() < 6
    for i in range(10):  # the window's middle lies where its location says
        tile = parts["terrain"][i]
        assert tile.values["terrain"][0, 4, 4] == tile.values["location"][2, 0, 0]


def test_what_corrects_a_station_comes_from_models_that_have_not_seen_it():
    group = np.array([0, 0, 1, 2])
    told = {pair: np.full((4, 1, 1), value) for pair, value in (((0, 1), 1.0), ((0, 2), 2.0), ((1, 2), 4.0))}
    # Station 0 left out: models without group 0; of those, for station 2 the one without group 1 too.
    assert _unseen_by(told, group, 0)[:, 0, 0].tolist() == [1.5, 1.5, 1.0, 2.0]
    assert _unseen_by(told, group, 3)[:, 0, 0].tolist() == [2.0, 2.0, 4.0, 3.0]


def test_a_model_of_a_pair_of_groups_hangs_on_no_station_of_them(data_dir):
    everything = open_stations(data_dir("daily_temperature_stations"), places=4)[0]
    stations = everything["stations"].subset(range(12))
    tokenizers = {
        "terrain": {"kind": "bins", "bins": 4},
        "location": {"kind": "scalar", "bins": 4},
        "temperature": {"kind": "bins", "start": 0, "step": 60, "length": 6, "bins": 8},
    }
    plan = Recipe(model=TINY | {"tokenizers": tokenizers}, steps=1, batch_size=4)
    base = learn(everything["all"], plan, 0)
    group = np.arange(12) % 3
    told = _of_pairs(everything["all"], stations, group, plan, base, 1, 0)
    assert set(told) == {(0, 1), (0, 2), (1, 2)}
    without = everything["all"].subset(
        [
            i
            for i in range(len(everything["all"]))
            if everything["all"].names[i] not in np.array(stations.names)[group != 2]
        ]
    )
    alone = learn(without, plan, 0, start=base, steps=1)
    from fusion.evaluation.model_profiles import expected_profiles

    np.testing.assert_array_equal(told[0, 1], expected_profiles(alone, stations, "temperature", ["location"]))


def test_flux_sites_have_the_weather_of_their_own_past(data_dir):
    parts, words = open_flux_sites(data_dir("gpp_flux"))
    tiles, sites = parts["all"], parts["sites"]
    assert "975 images at 36 flux sites" in words
    assert len(set(tiles.names)) > 900
    for i in range(0, 975, 50):
        tile = tiles[i]
        days = tile.days["weather"][tile.valid["weather"]]
        assert days[-1] == 90
        assert days.min() >= 0
        np.testing.assert_array_equal(tile.values["hls"].flatten().numpy(), sites.bands[i])
        np.testing.assert_array_equal(tile.values["weather"][-1].flatten().numpy(), sites.weather[i])
        same = (sites.site == sites.site[i]) & (sites.year == sites.year[i])
        for day, weather in zip(tile.days["weather"], tile.values["weather"].flatten(1), strict=True):
            past = same & (sites.day == sites.day[i] + int(day) - 90)
            assert not weather.any() or (sites.weather[past] == weather.numpy()).all(1).any()
    assert tiles.labels()[:, 0].numpy() == pytest.approx(sites.gpp, abs=1e-5)


@pytest.mark.parametrize(
    ("opener", "told"),
    [
        (open_places, "no .npz here"),
        (open_series, "no series.npz and no labels.csv"),
        (open_stations, "no stations.csv, tmean_2019.csv, dem_twi_serbia.tif"),
        (open_flux_sites, "no such file"),
    ],
)
def test_folders_without_the_data_are_refused(opener, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        opener(tmp_path)


def test_an_experiment_runs_in_miniature(data_dir, tmp_path):
    """Two steps of training: every table and picture, from the YAML to the report."""
    experiment = load_experiment("token-temperature")
    (name, settings), *_ = experiment.steps[0].items()
    recipes = {}
    for kind, models in settings["recipes"].items():
        name_of_first, recipe = next(iter(models.items()))
        model = recipe["model"] | TINY
        for tokenizer in model["tokenizers"].values():
            tokenizer["steps"] = 2 if tokenizer["kind"].startswith("patch") else 0
        recipes[kind] = {name_of_first: {"model": model, "steps": 2, "batch_size": 4}}
    small = type(experiment)(
        "mini",
        experiment.title,
        experiment.data | {"reader": {"tile": 64, "block": 1, "every": 90}},
        ({name: settings | {"recipes": recipes, "samples": 2}},),
        seeds=1,
    )
    outcome = run_experiment(small, data=data_dir("minicubes_daily_climate"), out=tmp_path, say=lambda line: None)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"season_by_place", "season_by_block", "window_by_place", "window_by_block"} <= set(metrics)
    for split in ("window_by_place", "season_by_block"):
        rows = outcome.metrics[split]
        assert {"model", "samples", "mean_profile", "ridge", "forest"} <= set(rows)
        assert all(np.isfinite(row["rmse"]) for row in rows.values() if isinstance(row, dict))
    assert (tmp_path / "report.html").read_text().count("data:image/png;base64,") == 8
