"""Commands lead on: each prints the next one, and takes what the one before has left."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch
import yaml

from fusion.cli import main
from fusion.commands.following import command
from fusion.training import load_finetuned

SMALL = ["--size", "tiny", "--model.dim", "16", "--model.heads", "2", "--model.depth", "1", "--model.series_heads", "2"]
ONE = ["--training.epochs", "1", "--training.batch_size", "8"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a space in its name, of one image with tile labels."""
    folder = tmp_path_factory.mktemp("my data")
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 3, (6, 6)).repeat(8, 0).repeat(8, 1)
    image = np.stack([truth, 3 - truth]) * 100 + rng.normal(0, 5, (2, 48, 48))
    np.savez(folder / "north.npz", image=image.astype(np.float32), crop=truth)
    description = {
        "files": "{scene}.npz",
        "tile": 80,
        "patch": 20,
        "modalities": {
            "aerial": {"variable": "image", "axes": ["band", "y", "x"], "bands": ["R", "G"], "resolution": 10}
        },
        "labels": {"variable": "crop", "resolution": 10, "reduction": "majority", "classes": {"wheat": 1, "maize": 2}},
        "georeference": {"epsg": 32632, "bounds": [500_000, 5_399_520, 500_480, 5_400_000]},
        "splits": {"train": {"columns": [0, 0.5]}, "val": {"columns": [0.5, 0.67]}, "test": {"columns": [0.66, 1]}},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    return folder


def following(capsys, *words: str) -> list[str]:
    """The command among those printed that begins with these words, without ``fusion``."""
    told = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("next: "))
    commands = [shlex.split(part) for part in told.removeprefix("next: ").split("   or   ")]
    assert all(part[0] == "fusion" for part in commands)
    return next(part[1:] for part in commands if part[1 : len(words) + 1] == list(words))


def test_every_command_printed_from_the_data_to_the_map_runs_as_it_stands(workplace, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "check", str(workplace / "own.yaml"), "--reader", "{max_dates: 5}"]) == 0
    pretrain = following(capsys, "pretrain")
    assert pretrain[pretrain.index("--reader") + 1] == '{"max_dates": 5}'
    assert main([*pretrain, *SMALL, *ONE]) == 0
    assert (tmp_path / "runs/mine/best.safetensors").is_file()
    probe = following(capsys, "probe")
    assert main([*probe, "--draws", "1", "--fraction", "1"]) == 0
    assert main([*following(capsys, "finetune"), *ONE]) == 0
    predict = following(capsys, "predict")
    assert predict[1] == "runs/mine/finetune"  # the folder of runs, as it holds one
    assert main(predict) == 0
    assert (tmp_path / "map.tif").is_file()
    assert main(["evaluate", "runs/mine/finetune", "--data", str(workplace / "own.yaml")]) == 0
    assert following(capsys, "predict")[1] == "runs/mine/finetune"


@pytest.fixture(scope="module")
def tuned(workplace, tmp_path_factory):
    """A pretraining folder in which two fine-tunings lie."""
    run, data = tmp_path_factory.mktemp("runs") / "a", ["--data", str(workplace / "own.yaml")]
    assert main(["pretrain", *data, "--out", str(run), *SMALL, *ONE]) == 0
    assert main(["finetune", str(run), *data, *ONE, "--draws", "2"]) == 0
    return run


def test_a_folder_of_several_runs_is_refused_with_their_names(tuned):
    with pytest.raises(ValueError, match=r"holds 2 runs \(pretrained-1-0, pretrained-1-1\); give one of them"):
        load_finetuned(tuned / "finetune")


def test_a_folder_of_one_run_stands_for_it(tuned, tmp_path):
    (tmp_path / "x").symlink_to(tuned / "finetune" / "pretrained-1-1")
    found, wanted = load_finetuned(tmp_path), load_finetuned(tuned / "finetune" / "pretrained-1-1")
    assert all(torch.equal(a, b) for a, b in zip(found.parameters(), wanted.parameters(), strict=True))


def test_an_encoder_without_a_head_points_to_its_fine_tuning(tuned):
    with pytest.raises(ValueError, match=r"encoder without a head; .*finetune/pretrained-1-0 is fine-tuned, give that"):
        load_finetuned(tuned)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--training.epoch", "3"], "training: unknown setting epoch; it has epochs, batch_size"),
        (["--training.logger", "wandb"], "training: logger is not to be given: a run writes metrics.csv"),
        (["--system", "utae"], "utae is not pretrained on tiles; systems that are: omnisat, token-fusion"),
        (["--size", "huge"], "omnisat: no size 'huge'; there are"),
        (["--model.dimm", "8"], "omnisat: unknown setting dimm; its fields are dim"),
        (["--module.learning_rate", "8"], "omnisat pretraining: unknown setting learning_rate; it has lr"),
        (["--augmentation.flip", "true"], "augmentation: unknown setting flip; it has flips"),
    ],
)
def test_options_of_pretraining_are_refused_before_data_are_read(arguments, told, capsys):
    assert main(["pretrain", "--data", "absent.yaml", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--training.epoch", "3"], "training: unknown setting epoch"),
        (["--module.heads", "mlp"], "fine-tuning: unknown setting heads; it has head, patience"),
        (["--augmentation.flip", "true"], "augmentation: unknown setting flip"),
    ],
)
def test_options_of_fine_tuning_are_refused_before_data_are_read(tuned, arguments, told, capsys):
    assert main(["finetune", str(tuned), "--data", "absent.yaml", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_killed_run_is_not_resumed_with_fewer_epochs_than_it_has(workplace, tmp_path, capsys):
    arguments = ["pretrain", "--data", str(workplace / "own.yaml"), "--out", str(tmp_path), *SMALL]
    assert main([*arguments, "--training.epochs", "3", "--training.batch_size", "8"]) == 0
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state["fusion"]["finished"] = False  # as a kill leaves it
    state["fusion"]["sealed"] = False  # torch.save writes no checksum
    torch.save(state, tmp_path / "last.ckpt")
    assert main([*arguments, "--training.epochs", "2", "--training.batch_size", "8"]) == 2
    assert "holds 3 epochs of an unfinished run, 2 are asked for: give at least epochs=3" in capsys.readouterr().err


def test_a_command_is_quoted_for_a_shell():
    told = command(
        "data check",
        "my data",
        reader={"cube": "a b"},
        modalities=["s2"],
        out=None,
        splits={},
        save=False,
        split="2020",
    )
    assert shlex.split(told) == [
        *("fusion", "data", "check", "my data", "--reader", '{"cube": "a b"}', "--modalities", '["s2"]'),
        *("--save", "false", "--split", '"2020"'),
    ]


def test_without_labels_nothing_is_offered_that_needs_them_and_asking_for_it_names_what_lacks(
    workplace, capsys, tmp_path
):
    description = yaml.safe_load((workplace / "own.yaml").read_text())
    del description["labels"], description["splits"]
    bare, run = workplace / "bare.yaml", str(tmp_path / "run")
    bare.write_text(yaml.safe_dump(description, sort_keys=False))
    assert main(["pretrain", "--data", str(bare), "--out", run, *SMALL, *ONE]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: fusion embed {run} --data '{bare}'"
    assert main(["embed", run, "--data", str(bare)]) == 0
    assert "next:" not in capsys.readouterr().out
    assert main(["probe", run, "--data", str(bare)]) == 2
    assert "the data have no labels, so no split 'train': describe `labels`" in capsys.readouterr().err
