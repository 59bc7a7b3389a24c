"""Every command from beginning to end, on a landscape of 64 tiles and a model of a few thousand weights."""

import json
import subprocess
import sys

import numpy as np
import pytest
import rasterio
import yaml

from fusion.cli import main
from fusion.embed import read_embeddings
from fusion.kernels import use_backend
from fusion.training import read_header

LANDSCAPE = ["--data", "landscape"]
READER = ["--reader.size", "64", "--reader.block", "2", "--reader.fine", "4", "--reader.max_dates", "6"]
TINY = ["--model.dim", "16", "--model.heads", "2", "--model.series_heads", "2", "--model.depth", "1"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of one pretraining."""
    out = tmp_path_factory.mktemp("runs") / "a"
    arguments = ["pretrain", "--preset", "omnisat-tiny", *LANDSCAPE, *READER, *TINY, "--out", str(out)]
    assert main([*arguments, "--training.epochs", "2", "--training.batch_size", "16"]) == 0
    return out


@pytest.mark.extra
def test_of_two_processes_one_speaks(tmp_path):
    arguments = ["pretrain", "--preset", "omnisat-tiny", *LANDSCAPE, *READER, *TINY, "--out", str(tmp_path / "run")]
    processes = {"epochs": "1", "batch_size": "16", "devices": "2", "strategy": "ddp", "accelerator": "cpu"}
    options = [word for name, value in processes.items() for word in (f"--training.{name}", value)]
    command = [sys.executable, "-m", "fusion", *arguments, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1/1") == done.stdout.count("next: ") == 1
    assert read_header(tmp_path / "run").system == "omnisat"


def test_data_check_shows_what_is_there(capsys):
    assert main(["data", "check", "landscape", *READER, "--tiles", "8"]) == 0
    text = capsys.readouterr().out
    assert "reflectance x 10000" in text
    assert "64 tiles, 8 read; crs EPSG:32632" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data", "check", "nowhere"], "no data at nowhere; give `landscape`"),
        (["data", "check", "landscape", "--reader.sise", "3"], "unknown setting sise; it has modalities, tile"),
        (["pretrain", *LANDSCAPE, *READER, "--system", "sam"], "no system 'sam'; there are omnisat"),
        (["pretrain", *LANDSCAPE, *READER, "--size", "huge"], "'huge'"),
        (["pretrain", *LANDSCAPE, *READER, "--model.dimm", "8"], "dimm"),
        (["pretrain", *LANDSCAPE, *READER, "--module.learning_rate", "8"], "unknown setting learning_rate; it has lr"),
        (["pretrain", *LANDSCAPE, *READER, "--modalities", "[s2,s3]"], "no modality 's3'"),
        (["pretrain", *LANDSCAPE, *READER, "--splits.test", "train"], "share 40 tiles"),
        (["probe", "nowhere", *LANDSCAPE, *READER], "nowhere"),
        (["report", "nowhere"], "no run folder"),
        (["experiment", "nothing"], "no experiment 'nothing'; there are"),
    ],
)
def test_what_cannot_be_done_is_told_in_words(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert told in capsys.readouterr().err


def test_pretraining_says_which_backend_runs_the_ops(tmp_path, capsys):
    arguments = ["pretrain", *LANDSCAPE, *READER, *TINY, "--out", str(tmp_path), "--training.epochs", "1"]
    with use_backend("eager"):
        assert main([*arguments, "--training.batch_size", "16"]) == 0
    told = capsys.readouterr().out
    assert "patch_info_nce_forward on eager" in told
    assert "relative_attention on eager" in told


def test_presets_files_and_the_command_line_override_each_other_in_order(tmp_path, capsys):
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"training": {"epochs": 7}, "seed": 5}))
    with pytest.raises(SystemExit):
        main(
            [
                "pretrain",
                *LANDSCAPE,
                "--preset",
                "omnisat-paper",
                "--config",
                str(own),
                "--module.lr",
                "0.5",
                "--print_config",
            ]
        )
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["size"], shown["training"]["epochs"], shown["module"]["lr"], shown["seed"]) == ("paper", 7, 0.5, 5)
    assert shown["module"]["mask_ratio"] == 0.75


def test_an_unknown_preset_is_told_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as left:
        main(["pretrain", *LANDSCAPE, "--preset", "large"])
    assert left.value.code == 2
    assert "no preset 'large'; there are omnisat-paper, omnisat-small, omnisat-tiny" in capsys.readouterr().err


def test_pretrain_leaves_a_model_that_knows_its_bands(run):
    header = read_header(run)
    assert [m["name"] for m in header.config["modalities"]] == ["aerial", "s2", "s1"]
    assert all(m["mean"] and m["std"] for m in header.config["modalities"])
    assert header.config["dim"] == 16


def test_pretrain_goes_on_only_with_the_same_configuration(run, capsys):
    arguments = ["pretrain", "--preset", "omnisat-tiny", *LANDSCAPE, *READER, *TINY, "--out", str(run)]
    arguments += ["--training.epochs", "2"]
    assert main([*arguments, "--training.batch_size", "16"]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main([*arguments, "--training.batch_size", "8"]) == 2
    assert "batch_size: 16 in the folder, 8 wanted" in capsys.readouterr().err


def test_pretrain_keeps_within_a_stated_memory(tmp_path, capsys):
    arguments = ["pretrain", *LANDSCAPE, *READER, *TINY, "--out", str(tmp_path), "--training.epochs", "1"]
    arguments += ["--training.batch_size", "16", "--training.memory", "accumulate", "--training.memory_limit"]
    assert main([*arguments, "0.0001"]) == 2
    assert "(memory_limit=0.0001 GiB). not even one tile fits" in capsys.readouterr().err
    assert main([*arguments, "0.005"]) == 0
    assert "; steps of 16 tiles in 4 parts of 4\n" in capsys.readouterr().out


def test_probe_compares_with_both_controls(run, tmp_path, capsys):
    arguments = ["probe", str(run), *LANDSCAPE, *READER, "--out", str(tmp_path), "--fraction", "0.5", "--draws", "2"]
    assert main([*arguments, "--each", "true"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {"pretrained", "random", "raw"} <= set(metrics["probe"])
    assert len(metrics["probe"]["raw"]["draws"]["macro_f1"]) == 2
    drawn = np.array(metrics["probe"]["raw"]["confusion"]["draws"])  # a matrix of each draw
    accuracies = drawn.trace(axis1=1, axis2=2) / drawn.sum((1, 2))
    assert accuracies == pytest.approx(metrics["probe"]["raw"]["draws"]["accuracy"])
    assert {"aerial", "s2", "s1", "all"} <= set(metrics["modalities"])
    shown = capsys.readouterr().out
    assert f"{metrics['probe']['raw']['macro_f1']:.3f} ± {metrics['probe']['raw']['macro_f1_sd']:.3f}" in shown
    assert "labelled tiles" in (tmp_path / "report.html").read_text()


def test_finetune_then_evaluate_gives_the_same_scores(run, tmp_path, capsys):
    arguments = ["finetune", str(run), *LANDSCAPE, *READER, "--out", str(tmp_path / "ft"), "--training.epochs", "1"]
    assert main([*arguments, "--starts", "[pretrained,frozen]"]) == 0
    trained = json.loads((tmp_path / "ft" / "metrics.json").read_text())["finetune"]
    assert {"pretrained", "pretrained_s2", "frozen", "frozen_s1", "raw_best"} <= set(trained)
    checkpoint = tmp_path / "ft" / "pretrained-1-0"
    assert main(["evaluate", str(checkpoint), *LANDSCAPE, *READER, "--out", str(tmp_path / "ev")]) == 0
    again = json.loads((tmp_path / "ev" / "metrics.json").read_text())["evaluate"]
    assert again["all"]["intervals"]["macro_f1"] is None
    assert "No interval: 3 blocks of ground are too few" in capsys.readouterr().out
    for ours, theirs in (("all", "pretrained"), ("s2", "pretrained_s2")):
        assert again[ours]["confusion"] == trained[theirs]["confusion"]
        numbers = {name: value for name, value in trained[theirs].items() if isinstance(value, float)}
        assert {name: again[ours][name] for name in numbers} == pytest.approx(numbers)


def test_finetune_and_evaluate_write_the_confusion_matrix_and_intervals_by_blocks(run, tmp_path, capsys):
    reader = [*LANDSCAPE, *READER, "--reader.block", "1"]  # blocks of one tile, 12 of them are tested
    arguments = ["finetune", str(run), *reader, "--out", str(tmp_path / "ft"), "--training.epochs", "4"]
    arguments += ["--rates.pretrained", "1e-2", "--module.class_weights", "balanced", "--control", "false"]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "ft" / "metrics.json").read_text())["finetune"]
    told = found["pretrained"]["confusion"]
    counts = np.array(told["counts"])
    assert (told["rows"], told["columns"]) == ("reference", "prediction")
    assert counts.shape == (len(told["classes"]),) * 2
    assert counts.trace() / counts.sum() == pytest.approx(found["pretrained"]["accuracy"])
    low, high = found["pretrained"]["intervals"]["macro_f1"]
    assert 0 <= low <= found["pretrained"]["macro_f1"] <= high <= 1
    assert low < high
    assert set(found["pretrained"]["intervals"]) == {"macro_f1", "weighted_f1", "micro_f1", "accuracy"}
    what = f"the 95 % interval of 1000 bootstrap draws of the {counts.sum()} blocks of ground."
    assert what in found["conditions"]
    shown = capsys.readouterr().out
    assert f"{found['pretrained']['macro_f1']:.3f} ({low:.3f} to {high:.3f})" in shown
    assert what in shown
    assert f"({low:.3f} to {high:.3f})" in (tmp_path / "ft" / "report.html").read_text()
    checkpoint = str(tmp_path / "ft" / "pretrained-1-0")
    assert main(["evaluate", checkpoint, *reader, "--out", str(tmp_path / "ev")]) == 0
    again = json.loads((tmp_path / "ev" / "metrics.json").read_text())["evaluate"]
    assert again["all"]["intervals"]["macro_f1"] == pytest.approx([low, high])
    assert "no labelled tile of" not in again["conditions"]


def test_evaluate_says_that_a_bare_encoder_has_no_head(run, capsys):
    assert main(["evaluate", str(run), *LANDSCAPE, *READER]) == 2
    assert "encoder without a head" in capsys.readouterr().err


def test_embed_puts_the_map_where_the_landscape_is(run, tmp_path, capsys):
    out = tmp_path / "map.tif"
    assert main(["embed", str(run), *LANDSCAPE, *READER, "--out", str(out), "--dtype", "int8"]) == 0
    found = read_embeddings(out)
    assert (found.crs, found.values.shape) == ("EPSG:32632", (16, 32, 32))
    assert tuple(found.transform)[:6] == (20.0, 0.0, 600_000.0, 0.0, -20.0, 5_400_000.0)
    assert "mean cosine 0.999" in capsys.readouterr().out
    with rasterio.open(out) as file:
        assert file.descriptions[:2] == ("E00", "E01")


def test_data_that_does_not_fit_the_model_is_refused_by_field(run, capsys):
    assert main(["embed", str(run), *LANDSCAPE, *READER, "--reader.patch", "4"]) == 2
    assert "patch_size is 16 in the data and 8 in the model" in capsys.readouterr().err


def test_modalities_that_the_model_does_not_know_are_left_out_aloud(run, tmp_path, capsys):
    reader = [*READER, "--reader.modalities", "[s2,terrain]"]
    assert main(["embed", str(run), *LANDSCAPE, *reader, "--out", str(tmp_path / "map.tif")]) == 0
    assert "without terrain, which the model does not know" in capsys.readouterr().out


def test_report_shows_curves_bands_and_machine(run):
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "reflectance x 10000" in page
    assert "torch 2" in page


def test_real_tree_tiles_train_and_become_one_map_each(data_dir, tmp_path):
    folder = ["--data", str(data_dir("treesatai_ts_mini")), "--reader.max_dates", "6", "--modalities", "[s2,s1-asc]"]
    out = tmp_path / "trees"
    assert main(["pretrain", *folder, *TINY, "--out", str(out), "--training.epochs", "1"]) == 0
    assert main(["embed", str(out), *folder]) == 0
    maps = sorted((out / "embeddings").glob("*.tif"))
    assert len(maps) == 5
    assert read_embeddings(maps[0]).crs == "EPSG:25832"


def test_real_cubes_train_by_the_description_that_ships(data_dir, tmp_path):
    folder = ["--data", str(data_dir("biomassters_mini")), "--reader.cube", "biomassters", "--modalities", "[s2]"]
    out = tmp_path / "biomass"
    splits = ["--splits.train", "chip-000aa810", "--splits.val", "null", "--splits.test", "null"]
    assert main(["pretrain", *folder, *TINY, *splits, "--out", str(out), "--training.epochs", "1"]) == 0
    assert main(["embed", str(out), *folder]) == 0
    assert read_embeddings(out / "embeddings.npz").values.shape[1:] == (16, 4, 4)
