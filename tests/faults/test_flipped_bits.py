"""Bits that change in any file that is written are noticed when it is read, or change nothing."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fusion.embed import open_embeddings
from fusion.training import load_finetuned, load_model, read_header

from .commands import options, run
from .conftest import LANDSCAPE

TRIALS = 200


def flip(files: list[Path], draw: random.Random) -> Callable[[], object]:
    """Changes a bit of one of the files, chosen by their sizes; returns what puts it right again."""
    (file,) = draw.choices(files, [file.stat().st_size for file in files])
    kept = file.read_bytes()
    place = draw.randrange(len(kept))
    file.write_bytes(kept[:place] + bytes([kept[place] ^ 1 << draw.randrange(8)]) + kept[place + 1 :])
    return lambda: file.write_bytes(kept)


def noticed(files: list[Path], read: Callable[[], object], seed: str) -> int:
    """How often a flipped bit is refused in words that name a file, or changes nothing of what is read."""
    wanted, survived, draw = read(), 0, random.Random(seed)
    for _ in range(TRIALS):
        undo = flip(files, draw)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                survived += read() == wanted
        except (ValueError, RuntimeError, OSError) as error:
            survived += any(part in str(error) for file in files for part in (file.name, str(file.parent)))
        finally:
            undo()
    return survived


def of_model(path: Path) -> Callable[[], object]:
    def read() -> object:
        header = read_header(path)
        module = load_finetuned(path) if header.finetuned else load_model(path)
        return repr(header), {k: v.numpy().tobytes() for k, v in module.state_dict().items()}

    return read


def of_embeddings(path: Path) -> Callable[[], object]:
    def read() -> object:
        data = open_embeddings(path).load()
        told = sorted((k, str(v)) for k, v in data.attrs.items() if k != "sha256" and len(str(v)) != 64)
        return told, {k: (v.values.tobytes(), str(v.attrs)) for k, v in data.variables.items()}

    return read


@pytest.mark.extra
def test_no_flipped_bit_of_a_model_is_unnoticed(pretrained, tmp_path, tally):
    words = ["finetune", str(pretrained["omnisat"]), *options({"data": "landscape", "reader": LANDSCAPE})]
    words += options({"training": {"epochs": 1}, "control": False})
    assert run([*words, "--out", str(tmp_path / "tuned")], tmp_path / "log").status == 0
    models = [next((tmp_path / "tuned").rglob("best.safetensors"))]
    models += [pretrained[system] / "best.safetensors" for system in ("omnisat", "token-fusion", "context")]
    for path in models:
        survived = noticed([path], of_model(path), path.parent.name)
        tally("bit flips: models", TRIALS, survived)
        assert survived == TRIALS, path


@pytest.mark.extra
@pytest.mark.parametrize("name", ["map.zarr", "map.npz", "cube.zarr"])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_no_flipped_bit_of_embeddings_is_unnoticed(name, dtype, pretrained, cubes, tmp_path, tally):
    if name == "cube.zarr":
        words = ["embed", str(pretrained["context"]), *options({"data": str(cubes), "block": 8})]
        assert run([*words, "--dtype", dtype, "--out", str(tmp_path / "map")], tmp_path / "log").status == 0
        (path,) = tmp_path.rglob("*.zarr")
    elif name == "map.zarr":
        words = ["embed", str(pretrained["omnisat"]), *options({"data": "landscape", "reader": LANDSCAPE})]
        path = tmp_path / name
        assert run([*words, "--dtype", dtype, "--out", str(path)], tmp_path / "log").status == 0
    else:
        from fusion.embed.raster import write_npz

        path, drawn = tmp_path / name, np.random.default_rng(0).standard_normal((3, 4, 4, 8)).astype(np.float32)
        write_npz(path, drawn, ["a", "b", "c"], dtype, {"FUSION_MODEL": "m"})
    parts = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    survived = noticed(parts, of_embeddings(path), f"{name} {dtype}")
    tally(f"bit flips: {'NPZ' if path.suffix == '.npz' else 'Zarr'}", TRIALS, survived)
    assert survived == TRIALS


@pytest.mark.extra
def test_no_flipped_bit_of_a_state_is_unnoticed(pretraining, pretrained, tmp_path, tally):
    """Of ``last.ckpt``, with which a run goes on: each trial is a command."""
    from fusion.training.seals import check_archive

    state = next(pretrained["omnisat"].rglob("last.ckpt"))

    def read() -> object:
        assert check_archive(state)
        return {k: str(v) for k, v in torch.load(state, weights_only=True).items()}

    survived = noticed([state], read, "state")
    tally("bit flips: states of runs", TRIALS, survived)
    assert survived == TRIALS
