"""From frozen embeddings to a map without training a network, as users type it."""

from __future__ import annotations

import contextlib
import io
import json
import shlex

import numpy as np
import pytest
import rasterio
import torch
import yaml

from fusion.cli import main
from fusion.data import open_data
from fusion.evaluation.finetune import predict
from fusion.training import Probed, load_finetuned, load_model, save_model
from fusion.training.loading import evaluation_loader

from .coloured_scene import CODES, SIDE, write_scene

SMALL = ["--size", "tiny", "--model.dim", "16", "--model.heads", "2", "--model.depth", "1", "--model.series_heads", "2"]
ONE_EPOCH = ["--training.epochs", "1", "--training.batch_size", "8"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One scene whose colour tells the class (or height) of a pixel, in fields of 2 x 2 patches."""
    folder = tmp_path_factory.mktemp("data")
    description = write_scene(folder)
    quantity = {"labels": {"variable": "height", "resolution": 10, "reduction": "none"}}
    for name, content in {
        "maps": description,
        "heights": description | quantity,
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
def saved(run, folder, tmp_path_factory):
    """Folders of saved probes, and what the commands printed."""
    found, told = {}, io.StringIO()
    for name, kind in (("tiles", "forest"), ("heights", "forest"), ("maps", "linear")):
        found[name] = tmp_path_factory.mktemp("saved") / name
        data = ["--data", str(folder / f"{name}.yaml"), "--out", str(found[name])]
        with contextlib.redirect_stdout(told):
            assert main(["probe", str(run), *data, "--save", kind]) == 0
    return found | {"told": told.getvalue()}


def test_a_saved_probe_scores_every_labelled_pixel_as_fine_tuning_does(saved, folder, tmp_path):
    told = json.loads((saved["maps"] / "metrics.json").read_text())
    scored = told["saved"]["linear"]
    test = open_data(folder / "maps.yaml").split("test").labels().numpy()
    counts = np.array(scored["confusion"]["counts"])
    assert counts.sum() == (test >= 0).sum()
    assert counts.trace() / counts.sum() == pytest.approx(scored["accuracy"])
    assert scored["accuracy"] > 0.9  # fields are whole patches, whose colour tells their class
    assert scored["intervals"]["miou"][0] <= scored["miou"] <= scored["intervals"]["miou"][1]
    assert told["probe"]["pretrained"]["miou"] == scored["miou"]  # the comparison is of the same labels
    assert told["probe"]["raw"]["miou"] > 0.9
    assert {"pretrained", "random", "raw"} <= set(told["probe"])
    assert main(["evaluate", str(saved["maps"]), "--data", str(folder / "maps.yaml"), "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "metrics.json").read_text())["evaluate"]["all"]
    assert again["confusion"] == scored["confusion"]


def test_a_saved_probe_of_heights_gives_them_in_metres(saved, folder):
    scored = json.loads((saved["heights"] / "metrics.json").read_text())["saved"]["forest"]
    assert scored["r2"] > 0.9
    assert 0.7 < scored["interval_coverage"] <= 1
    assert main(["predict", str(saved["heights"]), "--data", str(folder / "maps.yaml"), "--split", "test"]) == 0
    with rasterio.open(saved["heights"] / "prediction.tif") as file:
        assert (file.dtypes[0], file.shape) == ("float32", (SIDE, 16))
        assert file.descriptions == ("height", "height_lower", "height_upper")  # the data have a validation split
        assert (file.read(2) < file.read(1)).all()
        assert abs(file.read(1) - np.load(folder / "north.npz")["height"][:, 32:]).mean() < 3


def test_the_printed_command_makes_the_map(saved, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    last = saved["told"].splitlines()[-1]
    words = shlex.split(last.removeprefix("next: ").split("   or   ")[0])
    assert words[:3] == ["fusion", "predict", str(saved["maps"])]
    assert main(words[1:]) == 0
    crop = np.load(folder / "north.npz")["crop"]
    with rasterio.open("map.tif") as file:
        assert json.loads(file.tags()["FUSION_CLASSES"]) == list(CODES)
        codes = np.array(list(CODES.values()))[file.read(1)]
    assert (codes == crop)[crop > 0].mean() > 0.9


def test_labels_of_tiles_are_predicted_by_tile(saved, folder, tmp_path):
    module, test = load_finetuned(saved["tiles"]), open_data(folder / "tiles.yaml").split("test")
    assert isinstance(module, Probed)
    assert not module.dense
    scored = json.loads((saved["tiles"] / "metrics.json").read_text())["saved"]["forest"]
    assert (predict(module, test) == test.labels().numpy()).mean() == pytest.approx(scored["accuracy"])
    assert (
        main(["predict", str(saved["tiles"]), "--data", str(folder / "maps.yaml"), "--out", str(tmp_path / "m")]) == 0
    )
    with rasterio.open(tmp_path / "m.tif") as file:
        assert (file.shape, file.transform.a, file.count) == ((6, 6), 80.0, 1)


def test_the_file_holds_the_encoder_and_the_probe_bit_by_bit(saved, run, folder, tmp_path):
    module = load_finetuned(saved["maps"])
    encoder, wanted = load_model(saved["maps"]), load_model(run)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), wanted.parameters(), strict=True))
    again = load_finetuned(save_model(tmp_path / "again.safetensors", module.model, finetuned=module))
    batch = next(iter(evaluation_loader(open_data(folder / "maps.yaml"), 4)))
    assert torch.equal(module(batch), again(batch))
    out = module(batch)
    assert out.shape == (4, 3, 8, 8)
    assert torch.equal(out[..., ::2, ::2].repeat_interleave(2, -1).repeat_interleave(2, -2), out)  # alike in a patch


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--probes", "[svm]"], "no probe 'svm'; there are linear, knn, forest"),
        (["--fraction", "1.5"], "--fraction 1.5 is no share of the labels"),
        (["--draws", "0"], "--draws 0; labels are drawn once or more"),
    ],
)
def test_options_are_refused_before_data_are_read(run, arguments, told, capsys):
    assert main(["probe", str(run), "--data", "absent.yaml", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_what_is_of_tiles_is_refused_for_maps(run, folder, capsys):
    for arguments in (["--pool", "summary"], ["--each", "true"], ["--probes", "[knn]"]):
        assert main(["probe", str(run), "--data", str(folder / "maps.yaml"), *arguments]) == 2
        assert "are maps, which are probed by patch; leave it out" in capsys.readouterr().err
