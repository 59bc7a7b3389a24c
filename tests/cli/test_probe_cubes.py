"""A map from the context-aware system: embeddings of cubes, labelled pixels, a saved probe, as users type it."""

from __future__ import annotations

import contextlib
import io
import json
import shlex

import numpy as np
import pytest
import rasterio
import yaml

from fusion.cli import main
from fusion.data import open_cubes, open_data
from fusion.embed import CubeBlocks, CubeProbe, predict_map
from fusion.embed.dense import BlockEncoder
from fusion.embed.periods import part_of_year, raw_periods
from fusion.evaluation.cube_pixels import labelled_pixels, pixel_features
from fusion.training import load_finetuned, load_model

from .small_context import SIZES

SIDE, DATES = 24, 9
SMALL = [*SIZES, "--training.epochs", "[1, 1]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One field series of two crops, whose reflectance tells them apart; a corner is never seen."""
    folder = tmp_path_factory.mktemp("cubes")
    rng = np.random.default_rng(0)
    days = np.arange("2020-04-01", "2020-10-01", 20, dtype="datetime64[D]")[:DATES]
    crop = rng.integers(1, 3, (6, 6)).repeat(4, 0).repeat(4, 1)
    season = np.where(crop == 1, 0, 1)[None, None] * 2000 + 100 * np.arange(DATES)[:, None, None, None]
    s2 = (1000 + season + rng.normal(0, 50, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    s2[:, :, -3:, -3:] = np.nan
    s1 = (-12 + season / 1000 + rng.normal(0, 0.5, (DATES, 2, SIDE, SIDE))).astype(np.float32)
    labels = np.where(rng.random(crop.shape) < 0.2, 0, crop)
    height = (labels * 10.0 + rng.normal(0, 0.1, crop.shape)).astype(np.float32)
    height[labels == 0] = np.nan
    np.savez(folder / "field.npz", s2=s2, s1=s1, dates=days.astype(str), crop=labels, height=height)
    classes = {"wheat": 1, "maize": 2}
    series = {"resolution": 10, "dates": "dates"}
    description = {
        "files": "{scene}.npz",
        "tile": 40,
        "patch": 10,
        "modalities": {
            "s1": {"variable": "s1", "bands": ["VV", "VH"], "unit": "dB", **series},
            "s2": {"variable": "s2", "bands": ["B04", "B08"], "unit": "reflectance x 10000", **series},
        },
        "labels": {"variable": "crop", "resolution": 10, "reduction": "none", "nodata": 0, "classes": classes},
        "splits": {"train": {"rows": [0, 0.5]}, "val": {"rows": [0.5, 0.67]}, "test": {"rows": [0.66, 1]}},
        "georeference": {"epsg": 32631, "bounds": [500_000, 5_599_760, 500_240, 5_600_000]},
    }
    quantity = {"labels": {"variable": "height", "resolution": 10, "reduction": "none"}}
    reduced = {"labels": description["labels"] | {"reduction": "majority"}}
    bare = {key: part for key, part in description.items() if key not in ("labels", "splits", "georeference")}
    contents = {"crops": description, "heights": description | quantity, "tiles": description | reduced, "bare": bare}
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "context"
    arguments = ["--data", str(folder / "crops.yaml"), "--out", str(run), *SMALL]
    assert main(["pretrain", "--system", "context", *arguments]) == 0
    return run


@pytest.fixture(scope="module")
def saved(run, folder, tmp_path_factory):
    """Folder of a saved probe of crops, and what was printed."""
    out, told = tmp_path_factory.mktemp("saved") / "crops", io.StringIO()
    arguments = ["--data", str(folder / "crops.yaml"), "--save", "linear", "--pixels", "150", "--out", str(out)]
    with contextlib.redirect_stdout(told):
        assert main(["probe", str(run), *arguments]) == 0
    return out, told.getvalue()


def test_pixels_are_scored_beside_the_raw_bands(saved):
    out, told = saved
    scores = json.loads((out / "metrics.json").read_text())["probe"]
    assert {"pretrained", "raw", "raw_forest"} <= set(scores)
    assert scores["raw"]["accuracy"] > 0.95
    assert np.sum(scores["raw"]["confusion"]["counts"]) == np.sum(scores["pretrained"]["confusion"]["counts"]) <= 150
    low, high = scores["raw_forest"]["intervals"]["miou"]
    assert low <= scores["raw_forest"]["miou"] <= high
    values = {name: scores[name]["miou"] for name in ("pretrained", "raw", "raw_forest")}
    best = max(values, key=values.get)
    assert ("The raw bands are better here" in told) == (best != "pretrained")
    assert "150 labelled pixels of 18 tiles of split 'train'" in told


def test_the_printed_command_maps_every_pixel_that_was_seen(saved, folder, tmp_path, monkeypatch):
    out, told = saved
    monkeypatch.chdir(tmp_path)
    words = shlex.split(told.splitlines()[-1].removeprefix("next: "))
    assert words[:3] == ["fusion", "predict", str(out)]
    assert main([*words[1:], "--block", "10"]) == 0
    crop = np.load(folder / "field.npz")["crop"]
    with rasterio.open("map.tif") as file:
        assert (file.crs, file.shape, file.nodata) == ("EPSG:32631", (SIDE, SIDE), 255)
        assert tuple(file.transform)[:6] == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_600_000.0)
        classes = file.read(1)
    assert ((classes == 255) == np.pad(np.ones((3, 3), bool), ((SIDE - 3, 0), (SIDE - 3, 0)))).all()
    known = (classes < 255) & (crop > 0)
    assert (classes + 1 == crop)[known].mean() > 0.9


def test_blocks_leave_no_seams(saved, folder, tmp_path):
    probe, cubes = load_finetuned(saved[0]), open_cubes(folder / "crops.yaml")
    found = []
    for block in (8, 16):
        blocks = CubeBlocks(cubes, ["s2", "s1"], block)
        (written,) = predict_map(CubeProbe(probe, blocks), blocks, tmp_path / f"{block}.tif", probabilities=True)
        with rasterio.open(written.path) as classes, rasterio.open(written.probabilities) as likely:
            found.append((classes.read(), likely.read().astype(int)))
    assert (found[0][0] == found[1][0]).all()
    assert abs(found[0][1] - found[1][1]).max() <= 1  # of 254 steps


def test_only_labelled_pixels_are_learned_each_once_and_by_class_and_tile(folder):
    cubes, tiles = open_cubes(folder / "crops.yaml"), open_data(folder / "crops.yaml").split("train")
    crop = np.load(folder / "field.npz")["crop"]
    every = labelled_pixels(tiles, cubes, 10_000)
    assert len(every) == (crop[:12] > 0).sum()
    assert (crop[every.row, every.column] == every.label + 1).all()
    assert (every.tile == every.row // 4 * 6 + every.column // 4).all()
    some = labelled_pixels(tiles, cubes, 60, seed=3)
    assert len(some) == 60
    assert len(np.unique(some.tile)) == 18
    shares = [np.bincount(part.label)[1] / len(part) for part in (every, some)]
    assert shares[0] == pytest.approx(shares[1], abs=0.1)


def test_features_are_the_means_of_each_part_of_the_year(run, folder):
    cube, model = open_cubes(folder / "crops.yaml")[0], load_model(run)
    pixels = labelled_pixels(open_data(folder / "crops.yaml").split("train"), [cube], 30)
    embedded, raw = pixel_features(model, [cube], pixels, periods=4)
    whole = BlockEncoder(model, cube)(*cube.whole)[:, :, pixels.row, pixels.column]  # (T, E, n)
    part = part_of_year(cube.sensors["s2"].dates, 4)
    assert part.tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2] or set(part) == {0, 1, 2}
    summer = whole[part == 1].mean(0).T
    assert np.allclose(embedded[:, 6:12], summer, atol=1e-5)
    assert np.isnan(embedded[:, 18:]).all()  # nothing from October on
    bands = cube.sensors["s2"].values[...][part == 1].mean(0)[:, pixels.row, pixels.column].T
    assert np.allclose(raw[:, 2:4], bands, rtol=1e-5)
    assert raw_periods(model, cube, slice(0, 2), slice(0, 3), 4).shape == (4 * 4, 2, 3)


def test_a_quantity_is_learned_in_its_unit_and_mapped_without_a_place(run, folder, tmp_path):
    out = tmp_path / "heights"
    arguments = ["--data", str(folder / "heights.yaml"), "--save", "forest", "--out", str(out), "--periods", "2"]
    assert main(["probe", str(run), *arguments]) == 0
    scores = json.loads((out / "metrics.json").read_text())["probe"]
    assert "raw_forest" not in scores  # raw is a forest already
    assert scores["raw"]["r2"] > 0.9
    assert load_finetuned(out).periods == 2
    assert main(["predict", str(out), "--data", str(folder / "bare.yaml"), "--out", str(tmp_path / "map.tif")]) == 0
    told = json.loads((out / "metrics.json").read_text())["probe"]
    assert f"coverage {told['pretrained']['interval_coverage']:.2f}" in told["conditions"]
    assert told["pretrained"]["interval_coverage"] > 0.5
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.descriptions == ("height", "height_lower", "height_upper")
        height, lower, upper = file.read()
    assert np.nanmean(upper - lower) == pytest.approx(told["pretrained"]["interval_width"], rel=0.5)
    assert np.isnan(height[-3:, -3:]).all()
    assert np.nanmin(height) > 8
    assert np.nanmax(height) < 22


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "is a context-aware model, whose pixels are probed for a map: add --save linear or --save forest"),
        (["--save", "linear", "--pool", "summary"], "--pool means nothing for a model of context; leave it out"),
        (["--save", "linear", "--periods", "0"], "1 to 366 parts of the year"),
    ],
)
def test_options_are_refused_before_data_are_read(run, arguments, told, capsys):
    assert main(["probe", str(run), "--data", "absent.yaml", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_labels_that_are_not_of_pixels_are_refused_with_the_fix(run, folder, capsys):
    for name, told in (("tiles", "write `reduction: none`"), ("bare", "which it does not have yet")):
        assert main(["probe", str(run), "--data", str(folder / f"{name}.yaml"), "--save", "linear"]) == 2
        assert told in capsys.readouterr().err


def test_a_probe_of_cubes_is_not_scored_again_nor_asked_for_tiles(saved, folder, capsys):
    assert main(["evaluate", str(saved[0]), "--data", str(folder / "crops.yaml")]) == 2
    assert "see its metrics.json" in capsys.readouterr().err
    assert main(["predict", str(saved[0]), "--data", str(folder / "crops.yaml"), "--split", "test"]) == 2
    assert "leave --modalities, --split and --overlap out" in capsys.readouterr().err
