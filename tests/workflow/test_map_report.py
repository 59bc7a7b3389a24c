"""The page of a map says what is known of it, in words and numbers that follow from its files and its run."""

from __future__ import annotations

import html
import json
import re

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS

from fusion.data import ArrayTiles, Geo, Modality, fit_statistics
from fusion.embed import predict_map
from fusion.evaluation import area_accuracy
from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning
from fusion.workflow.map_layers import hectares_of_rows, map_file, map_layers
from fusion.workflow.map_report import write_map_report

CLASSES = ("water", "oak & beech", "maize")
EYE = Modality("eye", "image", ("red", "green", "blue"), 10.0, 4)
COUNTS = [[40, 5, 5], [4, 50, 6], [2, 8, 30]]  # rows are the reference
CONDITIONS = "80 labelled tiles of split 'train', scored on the 150 tiles of split 'test'; seed 0."


def tiles(task: str = "multiclass", classes: tuple[str, ...] = CLASSES, placed: bool = True) -> ArrayTiles:
    """4 x 6 tiles of 8 x 8 pixels of 10 m with a label each."""
    rng = np.random.default_rng(0)
    corners = [(r, c) for r in range(4) for c in range(6)]
    values = rng.normal(size=(24, 3, 8, 8)) + np.arange(24)[:, None, None, None]
    labels = torch.arange(24) % 3 if task == "multiclass" else torch.arange(24.0)[:, None]
    places = [Geo((10.0, 0, 500_000 + 80.0 * c, 0, -10.0, 5_400_000 - 80.0 * r), "EPSG:32632") for r, c in corners]
    named = {"task": task, "classes": classes, "labels": labels}
    return ArrayTiles([EYE], {"eye": values}, grid=(2, 2), places=places if placed else None, **named)


def model(data: ArrayTiles) -> Finetuning:
    torch.manual_seed(0)
    config = OmniSatConfig.preset("tiny", fit_statistics(data), (2, 2), dim=16, mlp_dim=32, heads=2, series_heads=2)
    module = Finetuning(OmniSat(config), data.task, data.classes)
    with torch.no_grad():
        list(module.head.parameters())[-2].mul_(20)  # predictions that vary
    return module.eval()


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A map of classes with its probabilities."""
    out = tmp_path_factory.mktemp("classes") / "map.tif"
    data = tiles()
    predict_map(model(data), data, out, probabilities=True)
    return out


@pytest.fixture(scope="module")
def heights(tmp_path_factory):
    out = tmp_path_factory.mktemp("heights") / "map.tif"
    data = tiles("regression", ("height",))
    predict_map(model(data), data, out)
    return out


def run(folder, **rows):
    """A run folder below one with scores."""
    made = folder / "tuned" / "pretrained-1-0"
    made.mkdir(parents=True)
    (made.parent / "metrics.json").write_text(json.dumps({"finetune": rows | {"conditions": CONDITIONS}}))
    return made


def row(counts=COUNTS, **more):
    right = np.trace(counts) / np.sum(counts)
    told = {"classes": CLASSES, "rows": "reference", "columns": "prediction", "counts": counts}
    scores = {"macro_f1": 0.78, "weighted_f1": 0.8, "micro_f1": right, "accuracy": right}
    return scores | {"intervals": {"accuracy": [0.7, 0.9], "macro_f1": [0.7, 0.85]}, "confusion": told} | more


def words(page) -> str:
    """The text of a page without its script and its data."""
    text = re.sub(r"<(script|style).*?</\1>", " ", page.read_text(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_the_headline_is_the_area_adjusted_accuracy_with_its_interval_and_chance(classes, tmp_path):
    page = write_map_report(classes, tiles(), run(tmp_path, pretrained=row()), out=tmp_path / "page.html")
    own = area_accuracy(np.array(COUNTS).T, map_file(classes).areas, CLASSES).overall
    told = words(page)
    assert (
        "Predicts water, oak & beech or maize on ground it has not seen: "
        f"{100 * own.value:.0f} % of the area right, 95 % interval {100 * own.low:.0f} to {100 * own.high:.0f} %. "
        "Always saying oak & beech would be right for 40 % of the test tiles." in told
    )
    assert CONDITIONS in told
    assert "accuracy 0.800 0.700 to 0.900 0.400" in told  # value, interval, chance
    assert f"macro F1 0.780 0.700 to 0.850 {2 * 0.4 / 1.4 / 3:.3f}" in told


def test_areas_are_of_the_pixels_of_the_map_and_estimated_from_the_test_labels(classes, tmp_path):
    page = write_map_report(classes, tiles(), run(tmp_path, pretrained=row()), out=tmp_path / "page.html")
    with rasterio.open(classes) as file:
        mapped = np.bincount(file.read(1).ravel(), minlength=3)[:3] * 0.64  # ha of a tile of 80 m
    estimated = area_accuracy(np.array(COUNTS).T, mapped, CLASSES)
    told = words(page)
    for k, name in enumerate(CLASSES):
        area, error = estimated.areas[k].value, estimated.areas[k].standard_error
        assert f"{name} {mapped[k]:,.1f} {area:,.1f} {error:,.1f}" in told
    assert "needs the test labels to be a random sample of the mapped area" in told
    assert "oak & beech 4 50 6 83 %" in told  # what it confuses


def test_pixels_are_no_observations_of_their_own(classes, tmp_path):
    counted = row()
    counted["confusion"] |= {"counted": "pixels"}
    told = words(write_map_report(classes, None, run(tmp_path, pretrained=counted), out=tmp_path / "page.html"))
    assert "% of the area right. Always saying" in told  # no interval that would be too narrow
    assert "the standard errors are too small" in told
    assert "Fewer than 500 test pixels are labelled as: water (50), oak & beech (60), maize (40)." in told


def test_without_scores_the_page_says_so_and_which_command_makes_them(classes, tmp_path):
    (tmp_path / "pretrained-1-0").mkdir()
    for where in (None, tmp_path / "pretrained-1-0"):
        told = words(write_map_report(classes, tiles(), where, out=tmp_path / "page.html"))
        assert "Nothing is known about how right this map is" in told
        assert "fusion evaluate" in told
        assert "chance" not in told


def test_pretraining_that_lost_is_a_warning_at_the_top(classes, tmp_path):
    made = run(tmp_path, pretrained=row(), scratch=row(macro_f1=0.80))
    page = write_map_report(classes, None, made, out=tmp_path / "page.html")
    warning = re.search(r"<header>.*?<p class=warning[^>]*>(.*?)</p>.*?</header>", page.read_text(), re.DOTALL)[1]
    assert "Pretraining did not help here" in warning
    assert "0.780" in warning
    assert "0.800 of the same network trained on the labels alone" in warning
    won = run(tmp_path / "won", pretrained=row(), scratch=row(macro_f1=0.7))
    assert "class=warning" not in write_map_report(classes, None, won, out=tmp_path / "page.html").read_text()


def test_a_probe_of_the_same_encoder_and_labels_warns_too_and_no_other(classes, heights, tmp_path):
    encoder = tmp_path / "encoder"
    made = run(encoder / "finetune", pretrained=row())
    lost = {"probe": {"pretrained": row(macro_f1=0.3), "raw": row(macro_f1=0.6)}}
    (encoder / "finetune" / "probe").mkdir()
    (encoder / "finetune" / "probe" / "metrics.json").write_text(json.dumps(lost))
    assert "class=warning" not in write_map_report(classes, None, made, out=tmp_path / "a.html").read_text()
    (encoder / "finetune" / "metrics.csv").write_text("epoch\n")  # now it is the folder of an encoder
    told = words(write_map_report(classes, None, made, out=tmp_path / "a.html"))
    assert "macro F1 is 0.300 on the test tiles, less than the 0.600 of plain band statistics" in told
    assert "class=warning" not in write_map_report(heights, None, made, out=tmp_path / "a.html").read_text()


def test_scores_of_evaluate_and_of_the_modalities_of_the_map_are_found(classes, tmp_path):
    made = tmp_path / "pretrained-1-0"
    (made / "evaluate").mkdir(parents=True)
    scores = {"evaluate": {"all": row(), "eye": row(accuracy=0.51), "conditions": "Elsewhere."}}
    (made / "evaluate" / "metrics.json").write_text(json.dumps(scores))
    told = words(write_map_report(classes, None, made, out=tmp_path / "page.html"))
    assert "accuracy 0.510" in told  # the map was made with `eye` alone
    assert "Elsewhere." in told


def test_a_quantity_has_its_error_in_words_and_r2_zero_as_chance(heights, tmp_path):
    scores = {"r2": 0.61, "rmse": 30.0, "mae": 23.4, "intervals": {"r2": [0.48, 0.7]}}
    page = write_map_report(
        heights, tiles("regression", ("height",)), run(tmp_path, pretrained=scores), out=tmp_path / "page.html"
    )
    told = words(page)
    assert (
        "Predicts height on ground it has not seen: within 23.4 on average (mean absolute error), R² 0.61 (95" in told
    )
    assert "R² 0.610 0.480 to 0.700 0.000" in told
    assert f"root mean square error 30.000 – {30 / 0.39**0.5:.3f}" in told  # the spread of the truth


def test_a_quantity_with_an_interval_says_how_often_it_held(heights, tmp_path):
    out = tmp_path / "map.tif"
    with rasterio.open(heights) as file:
        values, tags, profile = file.read(1), file.tags(), file.profile
    tags["FUSION_INTERVAL"] = json.dumps([{"level": 0.9}])
    with rasterio.open(out, "w", **(profile | {"count": 3, "driver": "GTiff"})) as file:
        for band, (name, by) in enumerate((("height", 0), ("height_lower", -2), ("height_upper", 3)), 1):
            file.write(values + by, band)
            file.set_band_description(band, name)
        file.update_tags(**tags)
    scores = {"r2": 0.61, "rmse": 30.0, "mae": 23.4, "interval_coverage": 0.88}
    page = write_map_report(out, None, run(tmp_path, pretrained=scores))
    assert "The 90 % interval held the truth in 88 % of test tiles." in words(page)
    layers = {layer.title: layer for layer in map_layers(map_file(out))}
    assert list(layers) == ["Map", "Lower end", "Upper end"]
    assert layers["Map"].ends == ("Lower end", "Upper end")
    assert np.allclose(layers["Upper end"].values - layers["Map"].values, 3)
    assert layers["Lower end"].range() == layers["Map"].range()  # one scale of colours


def test_the_page_is_self_contained_and_the_same_each_time(classes, tmp_path):
    first = write_map_report(classes, tiles(), None, out=tmp_path / "page.html").read_bytes()
    assert write_map_report(classes, tiles(), None, out=tmp_path / "page.html").read_bytes() == first
    assert not re.search(rb"https?://|@import|url\(|<link|<iframe", first)


def test_probabilities_of_another_model_are_not_shown(classes, tmp_path):
    titles = [layer.title for layer in map_layers(map_file(classes))]
    assert titles == ["Map", "Probability of the likeliest class"]
    for name in ("map.tif", "map_probabilities.tif"):
        (tmp_path / name).write_bytes((classes.parent / name).read_bytes())
    with rasterio.open(tmp_path / "map_probabilities.tif", "r+", IGNORE_COG_LAYOUT_BREAK="YES") as file:
        file.update_tags(FUSION_MODEL="another")
    assert [layer.title for layer in map_layers(map_file(tmp_path / "map.tif"))] == ["Map"]


def test_the_page_shows_image_and_labels_of_the_data(classes, tmp_path):
    page = write_map_report(classes, tiles(), None, out=tmp_path / "page.html").read_text()
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page, re.DOTALL)[1])
    assert [layer["title"] for layer in data["layers"]] == [
        "Map",
        "Probability of the likeliest class",
        "Labels",
        "True colour",
    ]
    assert data["metres"] == 80
    assert data["crs"] == "EPSG:32632"


def test_large_maps_are_shown_smaller_and_their_areas_are_of_all_pixels(tmp_path):
    out = tmp_path / "large.tif"
    codes = np.zeros((300, 5000), dtype=np.uint8)
    codes[:, 1001:] = 1
    codes[0] = 255
    profile = {"driver": "GTiff", "height": 300, "width": 5000, "count": 1, "dtype": "uint8", "nodata": 255}
    with rasterio.open(out, "w", **profile, crs="EPSG:32632", transform=Affine(10, 0, 5e5, 0, -10, 5.4e6)) as file:
        file.write(codes, 1)
        file.update_tags(FUSION_TASK="multiclass", FUSION_CLASSES='["a", "b"]')
    known = map_file(out)
    assert known.ground.shape == (100, 1667)
    assert known.areas == pytest.approx((299 * 10.01, 299 * 39.99))
    assert map_layers(known)[0].codes.shape == (100, 1667)
    assert "1,667 x 100 pixels are shown of 5,000 x 300" in words(write_map_report(out))


def test_areas_of_degrees_and_of_web_mercator_are_those_of_the_ground():
    half = hectares_of_rows(Affine(1, 0, 0, 0, -1, 61), CRS.from_epsg(4326), 2)
    assert half[0] == pytest.approx(111.195**2 * 100 * np.cos(np.radians(60.5)), rel=1e-3)  # ha of a square degree
    y = 6_378_137 * np.arcsinh(np.tan(np.radians(60)))
    flat = hectares_of_rows(Affine(20, 0, 0, 0, -20, y + 10), CRS.from_epsg(3857), 1)
    assert flat[0] == pytest.approx(0.04 / 4, rel=1e-4)  # at 60 degrees lengths are doubled
    assert hectares_of_rows(Affine(20, 0, 0, 0, -20, y), CRS.from_epsg(32632), 1)[0] == pytest.approx(0.04)


def test_a_file_that_is_no_predicted_map_is_refused(tmp_path):
    (tmp_path / "a.tif").write_text("nothing")
    with pytest.raises(ValueError, match=r"a\.tif is no map that can be read"):
        write_map_report(tmp_path / "a.tif")
    with rasterio.open(tmp_path / "b.tif", "w", driver="GTiff", height=2, width=2, count=1, dtype="uint8") as file:
        file.write(np.zeros((2, 2), np.uint8), 1)
    with pytest.raises(ValueError, match=r"b\.tif has no tag FUSION_TASK; give a map that `fusion predict` wrote"):
        write_map_report(tmp_path / "b.tif")
