"""``fusion embed`` and ``fusion predict``, killed at ten random moments, end with the bytes of an undisturbed run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fusion.omnisat import OmniSat, OmniSatConfig
from fusion.training import Finetuning, save_model

from . import test_damaged as ground

KILLS = 10


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Run folder and description of the data, with more ground than is computed between two kills."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ground, "SIDE", 256)
        ground.write(folder, "Zarr")
    torch.manual_seed(0)
    model = OmniSat(OmniSatConfig.preset("tiny", [ground.S2], (8, 8))).eval()
    head = Finetuning(model, "multiclass", ("maize", "wheat"), label_shape=(8, 8)).eval()
    save_model(folder / "run" / "best.safetensors", model, finetuned=head)
    return folder


@pytest.mark.extra
@pytest.mark.parametrize("command", ["embed", "predict"])
def test_killed_ten_times_at_random_it_ends_with_the_same_bytes(command, run):
    def start(out: Path) -> subprocess.Popen[str]:
        given = ["--data", str(run), "--reader.cube", str(run / "Zarr.yaml"), "--out", str(out), "--batch_size", "16"]
        line = [sys.executable, "-m", "fusion", command, str(run / "run"), *given]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole, out = run / f"{command}-whole.tif", run / f"{command}.tif"
    started = time.perf_counter()
    done = start(whole)
    told, _ = done.communicate()
    assert done.returncode == 0, told
    seconds, moments = time.perf_counter() - started, random.Random(0)
    on_the_way = 0
    for _ in range(KILLS):
        process = start(out)
        time.sleep(moments.uniform(0.3, 1.0) * seconds)  # before that Python starts
        process.kill()
        process.wait()
        on_the_way += out.with_name(f"{out.name}.partial").exists()
        if out.exists():  # it was done sooner than that
            out.unlink()
    assert on_the_way  # the seed and the machine are such that the test says something
    done = start(out)
    told, _ = done.communicate()
    assert done.returncode == 0, told
    assert out.read_bytes() == whole.read_bytes()
    assert not list(run.glob("*.partial"))
