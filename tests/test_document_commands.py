"""Every command that README.md and docs/ show runs, in the order in which a reader would type them.

Data and models are small, and options at the end of a command (where the last one counts) make it short; nothing else
of what is shown is changed. Experiments run in their short form: ``tests/experiments/test_short_forms.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fusion.cli import main
from fusion.workflow import load_experiment

from .data.flair_archive import write_flair
from .data.pastis_archive import write_pastis

REPOSITORY = Path(__file__).resolve().parents[1]
SAVED = REPOSITORY / "tests" / "training" / "saved"
PAGES = ("README.md", "docs/data.md", "docs/token_fusion.md", "docs/context.md", "docs/quantization.md", "docs/maps.md")

ONE_EPOCH = "--training.epochs 1 --training.batch_size 8"
SMALL = "--model.dim 16 --model.heads 2 --model.depth 1"
LANDSCAPE = "--reader.size 96 --reader.fine 4"
SHORTER = {
    ("pretrain", "omnisat-small"): f"--size tiny {SMALL} --model.series_heads 2 {ONE_EPOCH} --training.workers 0",
    ("pretrain", "token-fusion"): f"{SMALL} {ONE_EPOCH}",
    ("pretrain", "context"): "--model.window 1 --training.samples 60 --training.batch_size 30 --training.epochs 1"
    " --model.sensors '{s2: {frames: 3, mlp_dim: 8}, s1: {frames: 3, mlp_dim: 8}}' --model.fusion '{dim: 16}'",
    ("probe", "context"): "--pixels 200",
    ("probe", ""): "--draws 1",
    ("finetune", ""): ONE_EPOCH,
    ("generate", ""): "--samples 2 --steps 2 --tiles 4",
    ("counterfactual", ""): "--tiles 4",
    ("sensitivity", ""): "--tiles 4",
    ("tokenize", ""): "--steps 2",
}


def commands(page: str) -> list[list[str]]:
    """What stands behind ``$`` in the page's console blocks, as words; shell variables are filled in."""
    found, variables = [], {}
    for block in re.findall(r"^```console\n(.*?)^```", (REPOSITORY / page).read_text(), re.S | re.M):
        for line in re.findall(r"^\$ (.*)$", block, re.M):
            if named := re.fullmatch(r'(\w+)="(.*)"', line):
                variables[f"${named[1]}"] = named[2]
                continue
            for name, value in variables.items():
                line = line.replace(name, value)
            found.append(shlex.split(line, comments=True))
    return found


def shown(page: str, *kinds: str) -> list[list[str]]:
    return [words for words in commands(page) if words[: len(kinds)] == list(kinds)]


def short(words: list[str]) -> list[str]:
    """The arguments of ``fusion`` with what makes the command short."""
    arguments = words[1:]
    named = arguments[arguments.index("--preset") + 1] if "--preset" in arguments else ""
    if "runs/context" in arguments:
        named = "context"
    arguments += shlex.split(SHORTER.get((arguments[0], named), ""))
    return arguments + (shlex.split(LANDSCAPE) if "landscape" in arguments else [])


def write_folder(folder: Path) -> None:
    """Two scenes of 320 m: Sentinel-2 on the dates of Sentinel-1, two crops, and the files that the pages name."""
    rng = np.random.default_rng(0)
    months = np.arange(1, 13)
    for number, scene in enumerate(("north", "south")):
        crop = np.kron(rng.integers(1, 3, (4, 4)), np.ones((8, 8), int))
        green = np.exp(-(((months[:, None, None] - np.where(crop == 1, 5, 8)) / 1.5) ** 2))  # (dates, rows, columns)
        s2 = np.stack([1200 - 800 * green, 1500 + 2500 * green, 2500 - 900 * green], axis=1)
        s1 = np.stack([-14 + 3 * green, -21 + 5 * green], axis=1) + rng.normal(0, 0.5, (12, 2, 32, 32))
        top = 5_600_000 - 1000 * number
        np.savez(
            folder / f"{scene}.npz",
            s2=(s2 + rng.normal(0, 60, s2.shape)).clip(1).astype(np.uint16),
            s1=s1.astype(np.float32),
            dates=np.array([f"2021-{month:02d}-15" for month in months]),
            s2_bands=np.array(["B04", "B08", "B11"]),
            s1_bands=np.array(["VV", "VH"]),
            crop=crop,
            bounds=np.array([500_000, top - 320, 500_320, top]),
            meteo=rng.normal(10, 3, (150, 2)).astype(np.float32),
        )
    text = """
files: "{scene}.npz"
tile: 80
patch: 20
modalities:
  s2: {variable: s2, bands: [B04, B08, B11], resolution: 10, dates: dates, unit: reflectance x 10000}
  s1: {variable: s1, bands: [VV, VH], resolution: 10, dates: dates, unit: dB}
georeference: {epsg: 32631, bounds: bounds}
"""
    labels = "labels: {variable: crop, resolution: 10, reduction: majority, classes: {wheat: 1, maize: 2}}\n"
    splits = "splits: {train: {columns: [0, 0.5]}, val: {columns: [0.5, 0.75]}, test: {columns: [0.75, 1]}}\n"
    (folder / "fusion.yaml").write_text(text + labels + splits)
    maps = labels.replace("majority", "none")
    (folder / "cubes.yaml").write_text(text + maps + splits)
    days = [f"2019-{1 + k // 28:02d}-{1 + k % 28:02d}" for k in range(120)]
    rows = [f"s{k}," + ",".join(f"{np.sin(0.1 * t + k):.3f}" for t in range(120)) for k in range(6)]
    (folder / "tmean_2019.csv").write_text("id," + ",".join(days) + "\n" + "\n".join(rows) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data")
    write_folder(path)
    return path


def run(words: list[str], folder: Path) -> None:
    arguments = [word.replace("DIR", str(folder)).replace("NAME", "s1") for word in short(words)]
    if any("*" in word for word in arguments):  # what a shell does
        arguments = [
            p for word in arguments for p in (sorted(map(str, folder.glob("*.npz"))) if "*" in word else [word])
        ]
    assert main(arguments) == 0, shlex.join(["fusion", *arguments])


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_one_after_another(page, folder, tmp_path, monkeypatch, data_dir):
    monkeypatch.chdir(tmp_path)
    if page == "docs/data.md":
        write_pastis(tmp_path / "PASTIS", patches=5)
        write_flair(tmp_path / "FLAIR")
    ran = 0
    for words in shown(page, "fusion"):
        if words[1] == "experiment" or "biomassters" in words:
            continue  # below
        run(words, folder)
        ran += 1
    assert ran


@pytest.mark.extra  # minutes, most of them to read images of 1 m
def test_the_commands_of_omnisat_run_one_after_another(tmp_path, monkeypatch):
    """At the size of a test: tiles of 160 m, two dates, a step or two."""
    monkeypatch.chdir(tmp_path)
    write_pastis(tmp_path / "PASTIS", patches=5)
    steps = (
        "--training.epochs 1 --training.limit_train_batches 1 --training.limit_val_batches 1 --training.batch_size 4"
    )
    small = {
        "experiment": f"--size tiny {steps} --training.min_epochs 0 --training.workers 0",
        "pretrain": steps,
        "finetune": f"{steps} --control false",
    }
    ran = []
    for words in shown("docs/omnisat.md", "fusion"):
        few = "--reader.cut 16 --reader.max_dates 2" if "PASTIS" in words else ""
        arguments = [*words[1:], *shlex.split(f"{small.get(words[1], '')} {few}")]
        assert main(arguments) == 0, shlex.join(arguments)
        ran.append(words[1])
    assert {"experiment", "table", "predict"} <= set(ran)
    assert "omnisat-pastis-s2" in (tmp_path / "runs" / "table.md").read_text()


def test_the_check_of_real_chips(data_dir):
    (words,) = (words for words in shown("docs/data.md", "fusion") if "biomassters" in words)
    run(words, data_dir("biomassters_mini"))


@pytest.mark.extra  # what it does is tested in tests/embed/test_cube.py
def test_several_processes_share_the_work_as_shown(folder, tmp_path):
    (words,) = shown("docs/context.md", "torchrun")
    (tmp_path / "runs" / "fused").mkdir(parents=True)
    shutil.copy(SAVED / "context.safetensors", tmp_path / "runs" / "fused" / "best.safetensors")
    arguments = [word.replace("DIR", str(folder)) for word in words[1:]]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", *arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "embeddings" / "north.zarr").is_dir()


EXPERIMENTS = [
    words
    for page in (*PAGES, "docs/results.md")
    for words in shown(page, "fusion", "experiment")
    if "NAME" not in words
]


@pytest.mark.parametrize("words", EXPERIMENTS, ids=lambda words: words[2])
def test_experiments_that_are_shown_exist(words):
    experiment = load_experiment(words[2])
    assert ("--data" in words) == (experiment.data.get("source") is None)


def test_make_knows_what_the_pages_make():
    targets = set(re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for page in (*PAGES, "docs/contributing.md"):
        assert {words[1] for words in shown(page, "make")} <= targets
