"""From a folder with label maps to scores and a map, as users type it."""

from __future__ import annotations

import json
import os
import shlex
import signal

import numpy as np
import pytest
import rasterio
import torch
import yaml

from fusion.cli import main
from fusion.data import collate, open_data
from fusion.embed.working import WorkingRaster
from fusion.training import Finetuning, load_finetuned
from fusion.workflow import figures
from fusion.workflow.state import State

from .coloured_scene import CODES, SIDE, write_scene

SMALL = ["--size", "tiny", "--model.dim", "16", "--model.heads", "2", "--model.depth", "1", "--model.series_heads", "2"]
ONE_EPOCH = ["--training.epochs", "1", "--training.batch_size", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One scene whose colour tells the class (or height) of a pixel, in fields of 4 x 4 pixels."""
    folder = tmp_path_factory.mktemp("data")
    description = write_scene(folder)
    quantity = {"labels": {"variable": "height", "resolution": 10, "reduction": "none"}}
    unlabelled = {key: part for key, part in description.items() if key != "labels"}
    for name, content in {
        "maps": description,
        "heights": description | quantity,
        "overlapping": unlabelled | {"stride": 40},
        "tiles": description | {"labels": description["labels"] | {"reduction": "majority"}},
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    """The folder of one pretraining."""
    out = tmp_path_factory.mktemp("runs") / "a"
    assert main(["pretrain", "--data", str(folder / "maps.yaml"), *SMALL, *ONE_EPOCH, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def finetuned(run, folder, tmp_path_factory):
    """Folders of runs fine-tuned on classes and on heights."""
    found = {}
    for name in ("maps", "heights", "tiles"):
        out = tmp_path_factory.mktemp("finetuned") / name
        data = ["--data", str(folder / f"{name}.yaml")]
        assert main(["finetune", str(run), *data, *ONE_EPOCH, "--rates.pretrained", "3e-3", "--out", str(out)]) == 0
        found[name] = out
    return found


def test_maps_are_scored_and_drawn_pixel_by_pixel(finetuned, folder, tmp_path, capsys):
    trained = json.loads((finetuned["maps"] / "metrics.json").read_text())["finetune"]["pretrained"]
    assert {"miou", "macro_f1", "accuracy"} <= set(trained)
    counts = np.array(trained["confusion"]["counts"])  # of pixels
    assert trained["confusion"]["classes"] == list(CODES)
    assert counts.trace() / counts.sum() == pytest.approx(trained["accuracy"])
    assert counts.sum() > 500
    assert trained["intervals"]["miou"][0] <= trained["miou"] <= trained["intervals"]["miou"][1]
    data = ["--data", str(folder / "maps.yaml")]
    assert main(["evaluate", str(finetuned["maps"] / "pretrained-1-0"), *data, "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())["evaluate"]["all"]
    assert again["confusion"] == trained["confusion"]
    numbers = {name: value for name, value in trained.items() if isinstance(value, float)}
    assert {name: again[name] for name in numbers} == pytest.approx(numbers)
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png") == 2
    assert "n is its number of test pixels" in page
    assert "numbers are test pixels" in page
    assert "miou" in capsys.readouterr().out


def test_fine_tuning_says_whether_it_beats_simple_methods_on_raw_values_of_the_same_labels(finetuned):
    for name, metric in (("maps", "miou"), ("heights", "r2"), ("tiles", "macro_f1")):
        found = json.loads((finetuned[name] / "metrics.json").read_text())["finetune"]
        ours, theirs = (found[row][metric] for row in ("pretrained", "raw_best"))
        better = "better" if ours > theirs else "NOT better"
        winner = found["raw_best"]["control"]
        assert f"pretrained is {better} than the strongest control on raw values, {winner}: " in found["conditions"]
        assert f"{ours:.3f} against {theirs:.3f}" in found["conditions"]
        assert found["raw_best"]["intervals"][metric]
        assert "raw_best" in (finetuned[name] / "report.html").read_text()


def test_maps_of_a_quantity_are_scored_and_drawn_pixel_by_pixel(finetuned, folder, tmp_path):
    data = ["--data", str(folder / "heights.yaml")]
    assert main(["evaluate", str(finetuned["heights"] / "pretrained-1-0"), *data, "--out", str(tmp_path)]) == 0
    assert "rmse" in json.loads((tmp_path / "metrics.json").read_text())["evaluate"]["all"]
    assert "768 test pixels" in (tmp_path / "report.html").read_text()  # 12 tiles of 8 x 8


def test_the_bars_of_maps_are_their_iou(finetuned, folder):
    from fusion.evaluation.plots import class_bars
    from fusion.training import load_finetuned
    from fusion.workflow.scores import by_modality, of_module

    data = open_data(folder / "maps.yaml").split("test")
    named = by_modality(of_module(load_finetuned(finetuned["maps"] / "pretrained-1-0"), data, 0), first="finetune")
    scores = {name: rows[0].result.per_class for name, rows in named.items()}
    bars = figures.per_class(named, data, "")[0]
    assert bars.png == class_bars(scores, "iou", counted="pixels").png
    assert bars.png != class_bars(scores, "f1", counted="pixels").png


def test_a_picture_of_embeddings_reads_no_label_map(run, folder, tmp_path):
    from fusion.training import load_model

    model = load_model(run)
    maps, bare = (open_data(folder / "maps.yaml", labels=labels) for labels in (True, False))
    state = State(tmp_path, 0, {"all": maps})
    assert figures.embedding(model, maps, state).png == figures.embedding(model, bare, state).png


def test_predict_writes_classes_where_the_scene_lies(finetuned, folder, tmp_path, capsys):
    out = tmp_path / "map.tif"
    arguments = ["predict", str(finetuned["maps"] / "pretrained-1-0"), "--data", str(folder / "overlapping.yaml")]
    assert main([*arguments, "--out", str(out), "--probabilities", "true", "--batch_size", "8"]) == 0
    told = capsys.readouterr().out
    assert f"{out}: 48 x 48, water, meadow, forest, EPSG:32632, pixels of 10 x 10" in told
    assert told.splitlines()[-1] == f"open {out} in QGIS", "without labels there is nothing to score"
    with rasterio.open(out) as file:
        assert (file.crs, file.shape, file.nodata) == ("EPSG:32632", (SIDE, SIDE), 255)
        assert tuple(file.transform)[:6] == (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_400_000.0)
        classes = file.read(1)
        assert json.loads(file.tags()["FUSION_CLASSES"]) == ["water", "meadow", "forest"]
    with rasterio.open(tmp_path / "map_probabilities.tif") as file:
        assert file.descriptions == ("water", "meadow", "forest")
        likely = file.read()
    assert np.take_along_axis(likely, classes[None].astype(int), 0)[0].tolist() == likely.max(0).tolist()


def test_predict_writes_a_page_that_shows_the_map_and_its_scores(finetuned, folder, tmp_path, capsys):
    arguments = ["predict", str(finetuned["maps"] / "pretrained-1-0"), "--data", str(folder / "maps.yaml")]
    assert main([*arguments, "--out", str(tmp_path / "map.tif")]) == 0
    assert f"{tmp_path / 'map.html'}: shows the map in a browser" in capsys.readouterr().out
    page = (tmp_path / "map.html").read_text()
    assert "Predicts water, meadow or forest on ground it has not seen" in page
    scored = json.loads((finetuned["maps"] / "metrics.json").read_text())["finetune"]["pretrained"]["confusion"]
    assert f"Scored on {np.sum(scored['counts']):,} labelled test pixels." in page
    for layer in ("Map", "Labels", "True colour"):
        assert f'"title": "{layer}"' in page
    assert main([*arguments, "--out", str(tmp_path / "b.tif"), "--report", "false"]) == 0
    assert (tmp_path / "b.tif").is_file()
    assert not (tmp_path / "b.html").exists()


def test_predict_writes_quantities_in_their_unit(finetuned, folder):
    run = finetuned["heights"] / "pretrained-1-0"
    assert main(["predict", str(run), "--data", str(folder / "maps.yaml"), "--split", "test"]) == 0
    with rasterio.open(run / "prediction.tif") as file:
        bands = ("height", "height_lower", "height_upper")
        assert (file.dtypes[0], file.descriptions, file.shape) == ("float32", bands, (SIDE, 16))
        value, lower, upper = file.read()
        told = json.loads(file.tags()["FUSION_INTERVAL"])
    assert 5 < value.mean() < 35
    np.testing.assert_allclose(value - lower, upper - value, rtol=1e-4)
    assert (upper > value).all()
    (saved,) = load_finetuned(run).intervals
    assert told == [saved.to_dict()]
    np.testing.assert_allclose(upper - value, saved.half_width(value), rtol=1e-4)
    assert main(["predict", str(run), "--data", str(folder / "maps.yaml"), "--probabilities", "true"]) == 2


def test_the_interval_of_a_quantity_is_examined_on_the_test_split(finetuned, folder, tmp_path, capsys):
    out = finetuned["heights"]
    row = json.loads((out / "metrics.json").read_text())["finetune"]
    scores = row["pretrained"]
    assert 0.5 < scores["interval_coverage"] <= 1
    low, high = scores["intervals"]["interval_coverage"]
    assert low <= scores["interval_coverage"] <= high
    run = out / "pretrained-1-0"
    module, tiles = load_finetuned(run), open_data(folder / "heights.yaml").split("test")
    half, held, labels = 0.0, 0, 0
    for i in range(len(tiles)):
        with torch.inference_mode():
            predicted = module(collate([tiles[i]]))[0, 0].numpy()
        label = tiles[i].label.numpy()
        width = module.intervals[0].half_width(predicted)
        half, held, labels = half + width.sum(), held + (abs(label - predicted) <= width).sum(), labels + label.size
    assert scores["interval_coverage"] == pytest.approx(held / labels, abs=2e-3)
    assert scores["interval_width"] == pytest.approx(2 * half / labels, rel=1e-3)
    sentence = (
        f"Interval 90 % of pretrained: coverage {scores['interval_coverage']:.2f} ({low:.2f} to {high:.2f}), mean"
    )
    assert sentence in row["conditions"]
    assert main(["evaluate", str(run), "--data", str(folder / "heights.yaml"), "--out", str(tmp_path)]) == 0
    assert f"Interval 90 % of all: coverage {scores['interval_coverage']:.2f}" in capsys.readouterr().out


def test_predict_writes_a_pixel_a_tile_where_labels_were_of_tiles(finetuned, folder, tmp_path):
    arguments = ["predict", str(finetuned["tiles"] / "pretrained-1-0"), "--data", str(folder / "maps.yaml")]
    assert main([*arguments, "--out", str(tmp_path / "map.tif")]) == 0
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.shape, file.transform.a) == ((6, 6), 80.0)


def test_predict_names_the_next_step_and_estimates_without_writing(finetuned, folder, tmp_path, capsys):
    run, data, out = finetuned["tiles"] / "pretrained-1-0", folder / "maps.yaml", tmp_path / "a map.tif"
    arguments = ["predict", str(run), "--data", str(data), "--out", str(out)]
    assert main([*arguments, "--estimate", "true"]) == 0
    assert capsys.readouterr().out.startswith("6 x 6 pixels: 0.0 million pixels at ")
    assert not list(tmp_path.iterdir())
    assert main([*arguments, "--entropy", "true"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"open '{out}' in QGIS; next: {shlex.join(['fusion', 'evaluate', str(run), '--data', str(data)])}"
    )
    assert {path.suffix for path in tmp_path.iterdir()} == {".tif", ".qml", ".png", ".xml", ".html", ".json"}


def test_predict_that_is_terminated_says_the_command_that_goes_on(finetuned, folder, tmp_path, capsys, monkeypatch):
    data, out = folder / "overlapping.yaml", tmp_path / "a map.tif"
    arguments = ["predict", str(finetuned["maps"] / "pretrained-1-0"), "--data", str(data), "--out", str(out)]
    options = ["--reader.seed", "1", "--batch_size", "4", "--modalities", "[aerial]"]
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:  # when all rows are computed, and the map is not yet written
        patch.setattr(WorkingRaster, "stored", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert main([*arguments, *options]) == 130
    assert signal.getsignal(signal.SIGTERM) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a map.tif.partial"]
    command = capsys.readouterr().err.partition("To go on: ")[2].strip()
    assert shlex.split(command)[:2] == ["fusion", "predict"]
    forward = Finetuning.forward
    monkeypatch.setattr(Finetuning, "forward", lambda *_: pytest.fail("nothing is computed twice"))
    assert main(shlex.split(command)[1:]) == 0
    went_on = out.read_bytes()
    monkeypatch.setattr(Finetuning, "forward", forward)
    assert main([*arguments, *options]) == 0
    assert out.read_bytes() == went_on
    assert {path.name for path in tmp_path.iterdir()} >= {"a map.tif"}
    assert not (tmp_path / "a map.tif.partial").exists()


def test_predict_says_that_a_bare_encoder_has_no_head(run, folder, capsys):
    assert main(["predict", str(run), "--data", str(folder / "maps.yaml")]) == 2
    assert "encoder without a head" in capsys.readouterr().err


def test_embed_writes_larger_patches(run, folder, tmp_path):
    arguments = ["embed", str(run), "--data", str(folder / "maps.yaml"), "--out", str(tmp_path / "map.tif")]
    assert main([*arguments, "--patch_scale", "2"]) == 0
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.shape, file.transform.a) == ((12, 12), 40.0)


def test_a_map_reaches_the_border_of_a_scene_and_tells_how_far_tiles_overlap(finetuned, folder, tmp_path, capsys):
    """Tiles of 80 m on a scene of 470 m x 450 m."""
    with np.load(folder / "north.npz") as data:
        np.savez(tmp_path / "odd.npz", image=data["image"][:, :47, :45])
    described = yaml.safe_load((folder / "maps.yaml").read_text())
    described = {key: part for key, part in described.items() if key not in ("labels", "splits")}
    described["georeference"]["bounds"] = [500_000, 5_399_530, 500_450, 5_400_000]
    (tmp_path / "fusion.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    run = str(finetuned["maps"])
    assert main(["predict", run, "--data", str(tmp_path), "--out", str(tmp_path / "map.tif")]) == 0
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.shape == (47, 45)
        assert (file.read(1) != 255).all()
    assert main(["predict", run, "--data", str(folder / "maps.yaml"), "--split", "test", "--overlap", "0.5"]) == 2
    assert "--overlap 0.5 is for all of a described folder" in capsys.readouterr().err
