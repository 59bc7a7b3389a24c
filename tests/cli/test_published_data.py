"""From a folder as published to the scores of a fine-tuned model, as users type it."""

from __future__ import annotations

import csv
import json

import pytest

from fusion.cli import main

from ..data.flair_archive import write_flair
from ..data.pastis_archive import write_pastis

SMALL = ["--model.dim", "16", "--model.heads", "2", "--model.depth", "1", "--model.series_heads", "2"]
ONE_EPOCH = ["--training.epochs", "1", "--training.batch_size", "8", "--training.workers", "0"]


@pytest.mark.extra
def test_the_protocol_with_few_labels_trains_and_validates_as_asked(tmp_path, capsys):
    write_pastis(tmp_path / "pastis", patches=5)
    data = ["--data", str(tmp_path / "pastis"), "--reader.few", "true", "--reader.cut", "8"]
    data += ["--reader.modalities", "[s2]", "--reader.max_dates", "3"]
    run = str(tmp_path / "run")
    assert main(["pretrain", *data, "--size", "tiny", *SMALL, *ONE_EPOCH, "--out", run]) == 0
    assert "64 tiles, none for validation" in capsys.readouterr().out
    for name, splits in (("held-out", []), ("as-published", ["--splits.val", "val"])):
        out = tmp_path / name
        assert main(["finetune", run, *data, *splits, *ONE_EPOCH, "--control", "false", "--out", str(out)]) == 0
        conditions = json.loads((out / "metrics.json").read_text())["finetune"]["conditions"]
        assert "the 64 of split 'train'" in conditions
        assert "the 256 tiles of split 'test'" in conditions


@pytest.mark.extra
def test_an_encoder_trains_on_whole_domains_and_is_scored_on_the_published_ones(tmp_path, capsys):
    write_flair(tmp_path / "flair")
    data = ["--data", str(tmp_path / "flair")]
    run = str(tmp_path / "run")
    assert main(["pretrain", *data, "--size", "tiny", *SMALL, *ONE_EPOCH, "--out", run]) == 0
    assert "4 tiles, 2 for validation" in capsys.readouterr().out
    assert main(["finetune", run, *data, *ONE_EPOCH, "--out", str(tmp_path / "scores")]) == 0
    assert "the 2 tiles of split 'test'" in (tmp_path / "scores" / "metrics.json").read_text()
    assert main(["data", "check", *data[1:], "--reader.labels", "map"]) == 0
    assert "validation domains: D0" in capsys.readouterr().out


def test_training_takes_an_augmentation_by_name(tmp_path, capsys):
    arguments = ["--data", "landscape", "--reader.size", "64", "--reader.block", "2", *SMALL, *ONE_EPOCH]
    assert main(["pretrain", *arguments, "--out", str(tmp_path / "a"), "--augmentation.flips", "true"]) == 0
    assert main(["pretrain", *arguments, "--out", str(tmp_path / "b")]) == 0
    columns, losses = {"train/loss", "val/loss"}, []
    for run in ("a", "b"):
        with open(tmp_path / run / "metrics.csv", newline="") as file:
            losses.append({k: v for k, v in next(csv.DictReader(file)).items() if k in columns})
    assert losses[0] != losses[1]
    assert main(["pretrain", *arguments, "--out", str(tmp_path / "c"), "--augmentation.turns", "true"]) == 2
    assert "augmentation: unknown setting turns; it has flips, rotations, date_dropout" in capsys.readouterr().err
